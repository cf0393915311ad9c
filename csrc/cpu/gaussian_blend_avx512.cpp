// The blending of tiles once more, with lanes of AVX-512. It is part of the file for processors with AVX2, which asks the processor before
// it takes this. Everything of others' is included before the compiler is told, so that nothing of it is compiled for AVX-512 and shared.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "gaussian_blend.h"

#if defined(__AVX2__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#define MD_SIXTEEN_LANES
#include "gaussian_blend_lanes.h"

namespace md::raster {

const Blending* blending_avx512() { return &kBlending; }

}  // namespace md::raster

#else

namespace md::raster {

const Blending* blending_avx512() { return nullptr; }

}  // namespace md::raster

#endif
