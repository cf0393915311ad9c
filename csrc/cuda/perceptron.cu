// A perceptron with one hidden layer on tensor cores: products of bfloat16, sums of float. A warp takes 16 rows at a time; what the
// hidden units say stays in registers, on the way there and, computed again, on the way back. Weights lie in shared memory.
//
// Floor for N rows of I inputs in bfloat16 and O outputs: 2 I + 4 O bytes there, 4 I + 4 O back, for each 64 hidden units 2 I more.
//
// Fragments of mma.m16n8k16, of which lane 4 g + t holds: of the left matrix in four registers two neighbouring columns each, (row g,
// columns 2t, 2t+1), (g+8, 2t), (g, 2t+8), (g+8, 2t+8); of the right one in two registers two neighbouring rows each, (rows 2t, 2t+1;
// column g), (2t+8; g); of the sum (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1). Nobody minds in which order inputs and hidden units are
// numbered, so they are in that in which a lane's own are neighbours in memory: see `input_of` and `unit_of`.
#include "perceptron.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "warps.h"

namespace md::perceptron {
namespace {

using Half = __nv_bfloat16;

constexpr int kTile = 16;  // rows of a warp at a time, and hidden units
constexpr int kForwardBlock = 256, kBackwardBlock = 128;
constexpr int kForwardBlocks = 6, kBackwardBlocks = 3;  // of a multiprocessor
constexpr int kTiles = kSlab / kTile;                   // of hidden units in a slab
constexpr int kPad = 16;                                // by which rows in shared memory are longer, so that lanes read other banks

// ---- What a warp does together ----

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
// sum += left right, of 16 columns and rows.
__device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&left)[4], uint2 right) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right.x), "r"(right.y));
}

// The same of 8 columns and rows: of each, the first half of the registers.
__device__ __forceinline__ void multiply_short(float (&sum)[4], const uint32_t (&left)[2], uint32_t right) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(left[0]), "r"(left[1]), "r"(right));
}

// The transpose of 8 x 8 values, of which each lane holds (row g, columns 2t, 2t+1) before and after.
__device__ __forceinline__ uint32_t transposed(uint32_t block) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(block));
  return out;
}
#else  // the caller sees to it that these are not reached
__device__ __forceinline__ void multiply(float (&)[4], const uint32_t (&)[4], uint2) { __trap(); }
__device__ __forceinline__ void multiply_short(float (&)[4], const uint32_t (&)[2], uint32_t) { __trap(); }
__device__ __forceinline__ uint32_t transposed(uint32_t) {
  __trap();
  return 0;
}
#endif

__device__ __forceinline__ uint32_t packed(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

__device__ __forceinline__ float unpacked(uint32_t pair, int which) { return __uint_as_float(which ? pair & 0xffff0000u : pair << 16); }

// Zero and below become zero; what is not a number stays so.
__device__ __forceinline__ float rectified(float x) { return x < 0.f ? 0.f : x; }

// Of the 16 hidden units of a tile, the one in column n of its half j.
__device__ __forceinline__ int unit_of(int n, int j) { return 4 * (n >> 1) + 2 * j + (n & 1); }

// Of all inputs, the one in column n of the i-th eight.
template <int kSteps>
__device__ __forceinline__ int input_of(int n, int i) {
  return 4 * kSteps * (n >> 1) + 2 * i + (n & 1);
}

// ---- Rows ----

// A lane's own inputs of a row: 4 kSteps of them, from `4 kSteps t` on, in pairs.
template <int kSteps>
struct Part {
  uint32_t pairs[2 * kSteps];
};

template <int kSteps>
__device__ __forceinline__ Part<kSteps> load_part(const Half* from, bool inside) {
  Part<kSteps> part = {};
  if (!inside) return part;
  if constexpr (kSteps == 2) {
    *reinterpret_cast<uint4*>(part.pairs) = *reinterpret_cast<const uint4*>(from);
  } else {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) reinterpret_cast<uint2*>(part.pairs)[k] = reinterpret_cast<const uint2*>(from)[k];
  }
  return part;
}

template <int kSteps>
__device__ __forceinline__ Part<kSteps> load_part(const float* from, bool inside) {
  Part<kSteps> part = {};
  if (!inside) return part;
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    const float4 four = reinterpret_cast<const float4*>(from)[k];
    part.pairs[2 * k] = packed(four.x, four.y);
    part.pairs[2 * k + 1] = packed(four.z, four.w);
  }
  return part;
}

// Writes a lane's part of a row, or adds it to what is there.
template <int kSteps>
__device__ __forceinline__ void store_part(Half* to, const float (&values)[4 * kSteps], bool adds) {
  Part<kSteps> part = {};
  if (adds) part = load_part<kSteps>(to, true);
#pragma unroll
  for (int p = 0; p < 2 * kSteps; ++p) {
    part.pairs[p] = packed(values[2 * p] + unpacked(part.pairs[p], 0), values[2 * p + 1] + unpacked(part.pairs[p], 1));
  }
  if constexpr (kSteps == 2) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(part.pairs);
  } else {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) reinterpret_cast<uint2*>(to)[k] = reinterpret_cast<const uint2*>(part.pairs)[k];
  }
}

template <int kSteps>
__device__ __forceinline__ void store_part(float* to, const float (&values)[4 * kSteps], bool adds) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    float4 four = make_float4(values[4 * k], values[4 * k + 1], values[4 * k + 2], values[4 * k + 3]);
    if (adds) {
      const float4 old = reinterpret_cast<const float4*>(to)[k];
      four = make_float4(four.x + old.x, four.y + old.y, four.z + old.z, four.w + old.w);
    }
    reinterpret_cast<float4*>(to)[k] = four;
  }
}

// The left fragment of 16 rows, of whose inputs `upper` and `lower` are a lane's own of rows g and g + 8.
template <int kSteps>
__device__ __forceinline__ void make_left(const Part<kSteps>& upper, const Part<kSteps>& lower, uint32_t (&left)[kSteps][4]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    left[k][0] = upper.pairs[2 * k];
    left[k][1] = lower.pairs[2 * k];
    left[k][2] = upper.pairs[2 * k + 1];
    left[k][3] = lower.pairs[2 * k + 1];
  }
}

// What 16 hidden units say of 16 rows, before the rectifier: half j of them in hidden[j]. first: the weights [16,I] of these units.
template <int kSteps>
__device__ __forceinline__ void ask_hidden(const uint32_t (&left)[kSteps][4], const Half* first, int g, int t, float (&hidden)[2][4]) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const Part<kSteps> weights = load_part<kSteps>(first + unit_of(g, j) * kSteps * kInputStep + 4 * kSteps * t, true);
#pragma unroll
    for (int e = 0; e < 4; ++e) hidden[j][e] = 0.f;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) multiply(hidden[j], left[k], make_uint2(weights.pairs[2 * k], weights.pairs[2 * k + 1]));
  }
}

// ---- There ----

__host__ __device__ constexpr int padded_hidden(int hidden) { return (hidden + kTile - 1) / kTile * kTile; }

template <typename T, int kSteps>
__global__ void __launch_bounds__(kForwardBlock)
    forward_kernel(const T* x, const float* first, const float* second, float* out, Shape shape) {
  constexpr int kInputs = kSteps * kInputStep;
  const int hidden = padded_hidden(shape.hidden), stride = hidden + kPad;
  extern __shared__ __align__(16) unsigned char shared[];
  Half* const first_layer = reinterpret_cast<Half*>(shared);  // [hidden, kInputs]
  Half* const second_layer = first_layer + hidden * kInputs;  // [kMostOutputs, stride]
  for (int i = threadIdx.x; i < hidden * kInputs; i += kForwardBlock) {
    first_layer[i] = __float2bfloat16_rn(i < shape.hidden * kInputs ? first[i] : 0.f);
  }
  for (int i = threadIdx.x; i < kMostOutputs * hidden; i += kForwardBlock) {
    const int output = i / hidden, unit = i % hidden;
    const bool exists = output < shape.outputs && unit < shape.hidden;
    second_layer[output * stride + unit] = __float2bfloat16_rn(exists ? second[output * shape.hidden + unit] : 0.f);
  }
  __syncthreads();
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kForwardBlock / kWarp) * kTile;
  for (int64_t row = (static_cast<int64_t>(blockIdx.x) * (kForwardBlock / kWarp) + threadIdx.x / kWarp) * kTile; row < shape.rows;
       row += step) {
    const int64_t rows[2] = {row + g, row + g + 8};
    uint32_t left[kSteps][4];
    make_left(load_part<kSteps>(x + rows[0] * kInputs + 4 * kSteps * t, rows[0] < shape.rows),
              load_part<kSteps>(x + rows[1] * kInputs + 4 * kSteps * t, rows[1] < shape.rows), left);
    float sum[4] = {0.f, 0.f, 0.f, 0.f};
    for (int unit = 0; unit < hidden; unit += kTile) {
      float said[2][4];
      ask_hidden<kSteps>(left, first_layer + unit * kInputs, g, t, said);
      const uint32_t given[4] = {packed(rectified(said[0][0]), rectified(said[0][1])), packed(rectified(said[0][2]), rectified(said[0][3])),
                                 packed(rectified(said[1][0]), rectified(said[1][1])),
                                 packed(rectified(said[1][2]), rectified(said[1][3]))};
      multiply(sum, given, *reinterpret_cast<const uint2*>(second_layer + g * stride + unit + 4 * t));
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int output = 2 * t + (e & 1);
      if (output < shape.outputs && rows[e >> 1] < shape.rows) out[rows[e >> 1] * shape.outputs + output] = sum[e];
    }
  }
}

// ---- Back ----

// What comes back to a lane: of rows g and g + 8 its outputs 2t and 2t + 1.
struct Returned {
  float values[4];
};

__device__ __forceinline__ Returned load_returned(const float* v_out, const int64_t (&rows)[2], int t, const Shape& shape) {
  Returned returned;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int output = 2 * t + (e & 1);
    const bool exists = output < shape.outputs && rows[e >> 1] < shape.rows;
    returned.values[e] = exists ? v_out[rows[e >> 1] * shape.outputs + output] : 0.f;
  }
  return returned;
}

// One slab of hidden units, from `unit` on, for all rows. Blocks write their sums of weights' gradients; `adds`: to what v_x has already.
template <typename T, int kSteps>
__global__ void __launch_bounds__(kBackwardBlock, kSteps < 3 ? kBackwardBlocks : 2)
    backward_kernel(const float* v_out, const T* x, const float* first, const float* second, T* v_x, float* v_first, float* v_second,
                    Shape shape, int unit, bool adds) {
  constexpr int kInputs = kSteps * kInputStep, kEights = 2 * kSteps, kStride = kSlab + kPad;
  __shared__ __align__(16) Half first_layer[kSlab * kInputs];             // [unit, input]
  __shared__ __align__(16) Half first_transposed[kInputs * kStride];      // [input, unit]
  __shared__ __align__(16) Half second_transposed[kSlab * kMostOutputs];  // [unit, output]
  __shared__ float first_sums[kSlab * kInputs], second_sums[kSlab * kMostOutputs];
  for (int i = threadIdx.x; i < kSlab * kInputs; i += kBackwardBlock) {
    const int u = i / kInputs, input = i % kInputs;
    const Half weight = __float2bfloat16_rn(unit + u < shape.hidden ? first[(unit + u) * kInputs + input] : 0.f);
    first_layer[i] = weight;
    first_transposed[input * kStride + u] = weight;
    first_sums[i] = 0.f;
  }
  for (int i = threadIdx.x; i < kSlab * kMostOutputs; i += kBackwardBlock) {
    const int u = i / kMostOutputs, output = i % kMostOutputs;
    const bool exists = unit + u < shape.hidden && output < shape.outputs;
    second_transposed[i] = __float2bfloat16_rn(exists ? second[output * shape.hidden + unit + u] : 0.f);
    second_sums[i] = 0.f;
  }
  __syncthreads();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  float of_first[kTiles][kEights][4] = {}, of_second[kTiles][4] = {};

  const int64_t step = static_cast<int64_t>(gridDim.x) * (kBackwardBlock / kWarp) * kTile;
  int64_t row = (static_cast<int64_t>(blockIdx.x) * (kBackwardBlock / kWarp) + warp) * kTile;
  // The next rows are on their way while these are worked on.
  const auto rows_at = [&](int64_t at, int64_t (&rows)[2]) { rows[0] = at + g, rows[1] = at + g + 8; };
  int64_t rows[2];
  rows_at(row, rows);
  Part<kSteps> upper = load_part<kSteps>(x + rows[0] * kInputs + 4 * kSteps * t, rows[0] < shape.rows);
  Part<kSteps> lower = load_part<kSteps>(x + rows[1] * kInputs + 4 * kSteps * t, rows[1] < shape.rows);
  Returned returned = load_returned(v_out, rows, t, shape);
  for (; row < shape.rows; row += step) {
    int64_t next[2];
    rows_at(row + step, next);
    uint32_t left[kSteps][4];
    make_left(upper, lower, left);
    const bool any = returned.values[0] != 0.f || returned.values[1] != 0.f || returned.values[2] != 0.f || returned.values[3] != 0.f;
    const uint32_t back[2] = {packed(returned.values[0], returned.values[1]), packed(returned.values[2], returned.values[3])};
    upper = load_part<kSteps>(x + next[0] * kInputs + 4 * kSteps * t, next[0] < shape.rows);
    lower = load_part<kSteps>(x + next[1] * kInputs + 4 * kSteps * t, next[1] < shape.rows);
    returned = load_returned(v_out, next, t, shape);

    float of_inputs[kEights][4] = {};
    if (__any_sync(kAllLanes, any)) {  // rows that only fill a list up have no gradient
      const uint2 back_transposed = make_uint2(transposed(back[0]), transposed(back[1]));
      uint2 inputs[kEights];  // as the right matrix, rows along
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        inputs[2 * k] = make_uint2(transposed(left[k][0]), transposed(left[k][1]));
        inputs[2 * k + 1] = make_uint2(transposed(left[k][2]), transposed(left[k][3]));
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        float said[2][4], of_hidden[2][4] = {};
        ask_hidden<kSteps>(left, first_layer + tile * kTile * kInputs, g, t, said);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const Half* weights = second_transposed + (tile * kTile + unit_of(g, j)) * kMostOutputs + 2 * t;
          multiply_short(of_hidden[j], back, *reinterpret_cast<const uint32_t*>(weights));
        }
        uint32_t given[4], slope[4];
#pragma unroll
        for (int part = 0; part < 4; ++part) {  // half of the units, half of the rows
          const int j = part >> 1, e = 2 * (part & 1);
          const float one = said[j][e], other = said[j][e + 1];
          given[part] = packed(rectified(one), rectified(other));
          slope[part] = packed(one > 0.f ? of_hidden[j][e] : 0.f, other > 0.f ? of_hidden[j][e + 1] : 0.f);
        }
        const uint32_t given_transposed[4] = {transposed(given[0]), transposed(given[2]), transposed(given[1]), transposed(given[3])};
        const uint32_t slope_transposed[4] = {transposed(slope[0]), transposed(slope[2]), transposed(slope[1]), transposed(slope[3])};
        multiply(of_second[tile], given_transposed, back_transposed);
#pragma unroll
        for (int i = 0; i < kEights; ++i) {
          multiply(of_first[tile][i], slope_transposed, inputs[i]);
          const Half* weights = first_transposed + input_of<kSteps>(g, i) * kStride + tile * kTile + 4 * t;
          multiply(of_inputs[i], slope, *reinterpret_cast<const uint2*>(weights));
        }
      }
    } else if (adds) {
      rows_at(row + step, rows);
      continue;
    }
    if (v_x) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float values[4 * kSteps];
#pragma unroll
        for (int i = 0; i < kEights; ++i) values[2 * i] = of_inputs[i][2 * half], values[2 * i + 1] = of_inputs[i][2 * half + 1];
        if (rows[half] < shape.rows) store_part<kSteps>(v_x + rows[half] * kInputs + 4 * kSteps * t, values, adds);
      }
    }
    rows_at(row + step, rows);
  }

  // The block's sum, one warp after the other: the order does not change.
  for (int turn = 0; turn < kBackwardBlock / kWarp; ++turn) {
    if (warp == turn) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int u = tile * kTile + unit_of(g, e >> 1), n = 2 * t + (e & 1);
          second_sums[u * kMostOutputs + n] += of_second[tile][e];
#pragma unroll
          for (int i = 0; i < kEights; ++i) first_sums[u * kInputs + input_of<kSteps>(n, i)] += of_first[tile][i][e];
        }
      }
    }
    __syncthreads();
  }
  const int64_t place = static_cast<int64_t>(blockIdx.x) * slabs(shape) * kSlab + unit;
  for (int i = threadIdx.x; i < kSlab * kInputs; i += kBackwardBlock) v_first[place * kInputs + i] = first_sums[i];
  for (int i = threadIdx.x; i < kSlab * kMostOutputs; i += kBackwardBlock) v_second[place * kMostOutputs + i] = second_sums[i];
}

// ---- Launches ----

int blocks_of_device(int64_t rows, int block, int most) {
  int device = 0, processors = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  const int64_t useful = (rows + kTile * (block / kWarp) - 1) / (kTile * (block / kWarp));
  return static_cast<int>(std::max<int64_t>(std::min<int64_t>(useful, static_cast<int64_t>(processors) * most), 1));
}

// Calls launch with a null pointer to the type of x, and the number of steps of inputs as a constant.
template <class Launch>
cudaError_t with_inputs(FloatType type, int inputs, const Launch& launch) {
  const auto steps = [&]<typename T>(const T* none) {
    if (inputs == kInputStep) {
      launch.template operator()<T, 1>();
    } else if (inputs == 2 * kInputStep) {
      launch.template operator()<T, 2>();
    } else {
      launch.template operator()<T, 3>();
    }
  };
  if (type == FloatType::kBFloat16) {
    steps(static_cast<const Half*>(nullptr));
  } else {
    steps(static_cast<const float*>(nullptr));
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t forward_cuda(const void* x, FloatType type, const float* first, const float* second, float* out, const Shape& shape,
                         cudaStream_t stream) {
  if (shape.rows == 0) return cudaSuccess;
  const int hidden = padded_hidden(shape.hidden);
  const size_t bytes = (static_cast<size_t>(hidden) * shape.inputs + kMostOutputs * (hidden + kPad)) * sizeof(Half);
  return with_inputs(type, shape.inputs, [&]<typename T, int kSteps>() {
    const int blocks = blocks_of_device(shape.rows, kForwardBlock, kForwardBlocks);
    forward_kernel<T, kSteps><<<blocks, kForwardBlock, bytes, stream>>>(static_cast<const T*>(x), first, second, out, shape);
  });
}

int backward_parts(const Shape& shape) { return blocks_of_device(shape.rows, kBackwardBlock, kBackwardBlocks); }

cudaError_t backward_cuda(const float* v_out, const void* x, FloatType type, const float* first, const float* second, void* v_x,
                          float* v_first, float* v_second, const Shape& shape, cudaStream_t stream) {
  return with_inputs(type, shape.inputs, [&]<typename T, int kSteps>() {
    for (int slab = 0; slab < slabs(shape); ++slab) {
      backward_kernel<T, kSteps><<<backward_parts(shape), kBackwardBlock, 0, stream>>>(
          v_out, static_cast<const T*>(x), first, second, static_cast<T*>(v_x), v_first, v_second, shape, slab * kSlab, slab > 0);
    }
  });
}

}  // namespace md::perceptron
