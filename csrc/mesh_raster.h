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

// `edges` is the storage behind blending.edges, filled here.
void antialias_cpu(const Picture& in, const Blending& blending, float* out, uint8_t* edges);
void antialias_backward_cpu(const Picture& in, const Blending& blending, const BlendingGradients& v, uint8_t* edges);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
// Workspaces are scratch memory of the sizes told, aligned to 256 bytes. Those of the backward passes are for the deterministic
// mode, of deterministic_bytes(elements of the gradient that is summed); null for the fast one. Nothing here waits for the device.
inline int64_t deterministic_bytes(int64_t elements) { return 12 * elements; }
int64_t rasterize_workspace_bytes(const Picture& in);
cudaError_t rasterize_cuda(const Picture& in, float* rast, float* rast_db, void* workspace, cudaStream_t stream);
cudaError_t rasterize_backward_cuda(const Picture& in, const float* rast, const float* v_rast, const float* v_rast_db, float* v_pos,
                                    void* workspace, cudaStream_t stream);
cudaError_t interpolate_cuda(const Attributes& in, float* out, float* out_da, cudaStream_t stream);
cudaError_t interpolate_backward_cuda(const Attributes& in, const AttributeGradients& v, void* workspace, cudaStream_t stream);
// `edges` is the storage behind blending.edges.
cudaError_t antialias_cuda(const Picture& in, const Blending& blending, float* out, uint8_t* edges, cudaStream_t stream);
cudaError_t antialias_backward_cuda(const Picture& in, const Blending& blending, const BlendingGradients& v, uint8_t* edges,
                                    void* workspace, cudaStream_t stream);
#endif

}  // namespace md::mesh_raster
