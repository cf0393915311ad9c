// Texture look-up: the entry points of the CPU and CUDA versions. Plain pointers; the caller allocates all results.
#pragma once

#include "texture_math.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::texture {

// tex [textures, height, width, channels] -> texels [textures, texels of p, p.floats], all levels, padding 0.
void build_mips_cpu(const float* tex, int textures, int channels, const Pyramid& p, float* texels);
// The reverse: gradients of all levels to those of the texture.
void build_mips_backward_cpu(const float* v_texels, int textures, int channels, const Pyramid& p, float* v_tex);
void sample_cpu(const Inputs& in, float* out);
void sample_backward_cpu(const Inputs& in, const float* v_out, const Gradients& out);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
// The workspaces are scratch memory of the sizes told (0: none), aligned to 256 bytes. Nothing here waits for the device.
cudaError_t build_mips_cuda(const float* tex, int textures, int channels, const Pyramid& p, float* texels, cudaStream_t stream);
size_t build_mips_backward_workspace_bytes(int textures, const Pyramid& p);
cudaError_t build_mips_backward_cuda(const float* v_texels, int textures, int channels, const Pyramid& p, float* v_tex, void* workspace,
                                     cudaStream_t stream);
cudaError_t sample_cuda(const Inputs& in, float* out, cudaStream_t stream);
size_t sample_backward_workspace_bytes(const Inputs& in, const Gradients& out, bool deterministic);
cudaError_t sample_backward_cuda(const Inputs& in, const float* v_out, const Gradients& out, bool deterministic, void* workspace,
                                 cudaStream_t stream);
#endif

}  // namespace md::texture
