// A perceptron with one hidden layer, x -> relu(x first^T) second^T, on CUDA: plain pointers and sizes, so that no .cu file needs a
// PyTorch header. The CPU's is made of PyTorch's own products, in ops_perceptron.cpp.
#pragma once

#include "constants.h"
#include "float_types.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::perceptron {

struct Shape {
  int64_t rows;  // N
  int inputs;    // I, a multiple of kInputStep, at most kMostInputs
  int hidden;    // H, at most kMostHidden
  int outputs;   // O, at most kMostOutputs
};

constexpr int kSlab = 64;  // hidden units that the way back takes at a time

constexpr int slabs(const Shape& shape) { return (shape.hidden + kSlab - 1) / kSlab; }

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
// x [N,I] float32 or bfloat16 on a multiple of 16 bytes, first [H,I], second [O,H], out [N,O] float32.
cudaError_t forward_cuda(const void* x, FloatType type, const float* first, const float* second, float* out, const Shape& shape,
                         cudaStream_t stream);

// Weights' gradients come in parts to be added up, whose number `backward_parts` is: v_first [parts, slabs * kSlab, I] and v_second
// [parts, slabs * kSlab, kMostOutputs], by hidden units; those that there are not have zeros. v_x is of the type of x, like x on a
// multiple of 16 bytes, or null: not wanted.
int backward_parts(const Shape& shape);
cudaError_t backward_cuda(const float* v_out, const void* x, FloatType type, const float* first, const float* second, void* v_x,
                          float* v_first, float* v_second, const Shape& shape, cudaStream_t stream);
#endif

}  // namespace md::perceptron
