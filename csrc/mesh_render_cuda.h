// The entry to csrc/cuda/mesh_render.cu.
#pragma once

#include <cuda_runtime_api.h>

#include "mesh_render_math.h"

namespace md::mesh_render {

constexpr int64_t kMaxViewsAtOnce = 65535;  // the limit of a grid's second axis

int64_t view_bytes();

// Draws all views into out [views,4,height,width] uint8, `views_at_once` (<= kMaxViewsAtOnce) at a time.
//   max_faces     how many faces a view is given threads for at once (a larger mesh takes turns); at least 1
//   view_storage  views * view_bytes() bytes
//   nearest       views_at_once * width * height * supersample^2 keys
cudaError_t render_cuda(const Inputs& in, int max_faces, void* view_storage, unsigned long long* nearest, int64_t views_at_once,
                        uint8_t* out, cudaStream_t stream);

}  // namespace md::mesh_render
