// Mesh rasteriser: the entry points of the CPU and CUDA versions. Plain pointers; the caller allocates all results.
#pragma once

#include "mesh_raster_math.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::mesh_raster {

// rast, rast_db [B,H,W,4], every element written.
void rasterize_cpu(const Picture& in, float* rast, float* rast_db);
// v_rast or v_rast_db may be null. v_pos is like in.pos, every element written.
void rasterize_backward_cpu(const Picture& in, const float* rast, const float* v_rast, const float* v_rast_db, float* v_pos);

void interpolate_cpu(const Attributes& in, float* out, float* out_da);
void interpolate_backward_cpu(const Attributes& in, const AttributeGradients& v);

void antialias_cpu(const Picture& in, const Blending& blending, float* out);
void antialias_backward_cpu(const Picture& in, const Blending& blending, const BlendingGradients& v);

}  // namespace md::mesh_raster
