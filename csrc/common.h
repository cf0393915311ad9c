// Shared by every kernel, on both compilers. No torch header here: a .cu file includes this and nothing of PyTorch.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define MD_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MD_HOST_DEVICE inline
#endif
