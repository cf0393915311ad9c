// What a modulated transformer does to its tokens between two products, each in one pass over memory. CPU alone: on a GPU such
// networks are compiled or captured as a whole. Values are float or bfloat16, sums and statistics float.
#pragma once

#include "common.h"

namespace md::modulation {

struct Rows {
  int64_t count;       // tokens of all samples
  int channels;        // of a token
  int64_t per_sample;  // tokens of one sample, which share scale, shift and gate
  int64_t stride;      // from one sample's scale, shift or gate to the next one's
};

constexpr float kEpsilon = 1e-5f;  // of layer normalisation, PyTorch's default

// out = norm(x) (1 + scale) + shift, norm as layer normalisation without weights (Ba et al. 2016, arXiv 1607.06450) and scale and shift
// [samples, C] of the token's sample, or null together (Peebles and Xie 2023, arXiv 2212.09748, adaLN); `silu`: x sigmoid(x) of that.
template <typename X, typename Out>
void modulated_norm_cpu(const X* x, const float* scale, const float* shift, bool silu, Out* out, const Rows& rows);

// out = x + (1 + gate) h, or x + h where gate is null.
template <typename X, typename H, typename Out>
void gated_add_cpu(const X* x, const H* h, const float* gate, Out* out, const Rows& rows);

// out = max(x, 0)^2 (So et al. 2021, arXiv 2109.08668).
template <typename T>
void squared_relu_cpu(const T* x, T* out, int64_t count);

struct Heads {
  int64_t samples, tokens;
  int heads, width;  // a multiple of 8
  float epsilon;     // of the root mean square
};

// qkv [samples, tokens, 3, heads, width] -> queries, keys and values [samples, heads, tokens, width]. Queries and keys are divided by
// their root mean square (Zhang and Sennrich 2019, arXiv 1910.07467) and multiplied by query_scale and key_scale [width].
template <typename T>
void normed_heads_cpu(const T* qkv, const float* query_scale, const float* key_scale, T* query, T* key, T* value, const Heads& shape);

}  // namespace md::modulation
