// The types that networks compute in, for kernels that load and store whole vectors of them.
#pragma once

#include "common.h"

namespace md {

enum class FloatType { kFloat, kHalf, kBFloat16 };

// Bytes that a thread loads and stores at a time; rows must fill whole vectors and pointers lie on multiples of it.
constexpr int kVectorBytes = 16;

}  // namespace md
