// What stands around the products of a Winograd convolution, on the GPU: every value is loaded and stored in vectors of neighbouring
// channels.
#include "winograd.h"

#include "group_moments.h"

namespace md::winograd {
namespace {

constexpr int kThreads = 256;

// ---- Into planes ----

// A block makes this many rows and columns of tiles at most, of this many vectors of channels (128 bytes of every pixel).
constexpr int kTileRows = 4, kTileColumns = 8, kVectors = 8;

// The block's part of the picture with a border of one pixel, normalised once, in shared memory; then a thread makes tiles from it. The
// statistics of the groups are added up while the pixels are on their way.
// blockIdx: x tiles, y channels, z sample.
template <typename T, int kSides>
__global__ void __launch_bounds__(kThreads, 4) input_kernel(const T* __restrict__ x, Norm norm, T* __restrict__ planes, Shape shape) {
  constexpr int kWidth = Lanes<T>::kWidth;
  constexpr bool kEnlarged = kSides == kPlacesEnlarged;
  constexpr int kStep = kEnlarged ? 1 : 2;  // pixels of x from tile to tile
  constexpr int kBorder = 2;
  __shared__ uint4 patch[(kStep * kTileRows + kBorder) * (kStep * kTileColumns + kBorder) * kVectors];
  __shared__ float statistics[2 * (kVectors * kWidth + 1)];
  const int tiles_across = shape.width / 2, tiles_down = shape.height / 2;
  const int spans = (tiles_across + kTileColumns - 1) / kTileColumns;
  const int tile_row = static_cast<int>(blockIdx.x) / spans * kTileRows, tile_column = static_cast<int>(blockIdx.x) % spans * kTileColumns;
  const int rows = min(kTileRows, tiles_down - tile_row), columns = min(kTileColumns, tiles_across - tile_column);  // of tiles
  const int height = kStep * tiles_down, width = kStep * tiles_across;                                              // of x
  const int lane = static_cast<int>(threadIdx.x) % kVectors;
  const int vector = static_cast<int>(blockIdx.y) * kVectors + lane, channel = vector * kWidth;
  const bool mine = channel < shape.channels;
  const int64_t sample = blockIdx.z;

  const int patch_rows = kStep * rows + kBorder, patch_columns = kStep * columns + kBorder;
  const int top = kStep * tile_row - 1, left = kStep * tile_column - 1;
  constexpr int kPixels = kThreads / kVectors;  // at a time
  constexpr int kTurns = ((kStep * kTileRows + kBorder) * (kStep * kTileColumns + kBorder) + kPixels - 1) / kPixels;
  Vector<T> pixels[kTurns];
  unsigned inside = 0;  // bits of the turns whose pixel is in the picture
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int i = turn * kPixels + static_cast<int>(threadIdx.x) / kVectors, row = top + i / patch_columns,
              column = left + i % patch_columns;
    pixels[turn].bits = make_uint4(0, 0, 0, 0);
    if (!mine || i >= patch_rows * patch_columns || row < 0 || row >= height || column < 0 || column >= width) continue;
    pixels[turn] = load_vector(x + ((sample * height + row) * width + column) * shape.channels + channel);
    inside |= 1u << turn;
  }

  float scale[kWidth], shift[kWidth];
  if (norm.moments) {
    const int group_width = shape.channels / norm.groups, first = static_cast<int>(blockIdx.y) * kVectors * kWidth;
    const int begin = first / group_width, end = (min(first + kVectors * kWidth, shape.channels) - 1) / group_width + 1;
    const int slices = static_cast<int>(moment_slices(int64_t{height} * width));
    load_statistics(norm.moments + sample * slices * norm.groups * kMoments, slices, norm.groups, begin, end, norm.eps, statistics);
    __syncthreads();
    if (mine) {
      const Vector<T> weight = load_vector(static_cast<const T*>(norm.weight) + channel),
                      bias = load_vector(static_cast<const T*>(norm.bias) + channel);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const float* of = statistics + 2 * ((channel + k) / group_width - begin);
        scale[k] = of[1] * to_float(weight.values[k]);
        shift[k] = to_float(bias.values[k]) - of[0] * scale[k];
      }
    }
  }

#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int i = turn * kPixels + static_cast<int>(threadIdx.x) / kVectors;
    if (i >= patch_rows * patch_columns) break;
    if (norm.moments && (inside >> turn & 1u)) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const float normed = to_float(pixels[turn].values[k]) * scale[k] + shift[k];
        from_float(norm.silu ? silu_for<T>(normed) : normed, pixels[turn].values[k]);
      }
    }
    patch[i * kVectors + lane] = pixels[turn].bits;
  }
  __syncthreads();

  constexpr int kLanes = kVectors * kWidth / kFour;  // threads that cover a tile's channels here
  const int own = static_cast<int>(threadIdx.x) % kLanes * kFour, own_channel = static_cast<int>(blockIdx.y) * kVectors * kWidth + own;
  if (own_channel >= shape.channels) return;
  const T* values = reinterpret_cast<const T*>(patch) + own;
  const int64_t plane = shape.tiles() * shape.channels;
  for (int i = static_cast<int>(threadIdx.x) / kLanes; i < rows * columns; i += kThreads / kLanes) {
    const int tile_y = i / columns, tile_x = i % columns;
    constexpr int kRead = kEnlarged ? 3 : 4;
    Four<T> read[kRead][kRead], out[kSides][kSides];
#pragma unroll
    for (int r = 0; r < kRead; ++r) {
#pragma unroll
      for (int c = 0; c < kRead; ++c)
        read[r][c] = load_four(values + ((kStep * tile_y + r) * patch_columns + kStep * tile_x + c) * kVectors * kWidth);
    }
#pragma unroll
    for (int k = 0; k < kFour; ++k) {
      float d[4][4], v[4][4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) d[r][c] = to_float(read[kEnlarged ? (r + 1) / 2 : r][kEnlarged ? (c + 1) / 2 : c].values[k]);
      }
      transform_patch(d, v);
#pragma unroll
      for (int r = 0; r < kSides; ++r) {
#pragma unroll
        for (int c = 0; c < kSides; ++c) from_float(v[place(kSides, r)][place(kSides, c)], out[r][c].values[k]);
      }
    }
    T* to = planes +
            (sample * shape.tiles_per_sample() + int64_t{tile_row + tile_y} * tiles_across + tile_column + tile_x) * shape.channels +
            own_channel;
#pragma unroll
    for (int r = 0; r < kSides; ++r) {
#pragma unroll
      for (int c = 0; c < kSides; ++c) store_four(to + (r * kSides + c) * plane, out[r][c]);
    }
  }
}

// ---- Out of the products ----

constexpr int kOutputThreads = 160;  // of a block, about

struct Plan {
  int lanes;   // threads that cover the channels of one tile
  int rows;    // tiles of a block at a time
  int slices;  // of a sample's tiles, one a block
  int threads() const { return (lanes * rows + kWarp - 1) / kWarp * kWarp; }
};

Plan plan_for(const Shape& shape) {
  Plan plan;
  plan.lanes = shape.channels / kFour;
  plan.slices = static_cast<int>(moment_slices(static_cast<int64_t>(shape.height) * shape.width));
  const int64_t length = (shape.tiles_per_sample() + plan.slices - 1) / plan.slices;
  const int64_t most = std::max(1, kOutputThreads / plan.lanes), turns = (length + most - 1) / most;
  plan.rows = static_cast<int>((length + turns - 1) / turns);
  return plan;
}

// blockIdx.x: slice, blockIdx.y: sample.
template <typename T, int kSides>
__global__ void __launch_bounds__(kMostFours, 2) output_kernel(const T* __restrict__ products, Output output, Shape shape, Plan plan) {
  extern __shared__ float shared[];  // [2, rows, C], where moments are wanted
  const int lane = static_cast<int>(threadIdx.x) % plan.lanes, row = static_cast<int>(threadIdx.x) / plan.lanes, channel = lane * kFour;
  const int64_t sample = blockIdx.y, plane = shape.tiles() * shape.channels;
  const int tiles = static_cast<int>(shape.tiles_per_sample()), tiles_across = shape.width / 2, slices = static_cast<int>(gridDim.x);
  const int length = (tiles + slices - 1) / slices, begin = min(tiles, static_cast<int>(blockIdx.x) * length),
            end = min(tiles, begin + length);
  const auto turns_of = [&](int r) { return max(0, (end - begin - r + plan.rows - 1) / plan.rows); };
  float mean[kFour] = {}, spread[kFour] = {};
  if (row < plan.rows) {
    const Four<T> offset = load_four(static_cast<const T*>(output.offset) + sample * output.offset_stride + channel);
    int turn = 0;
#pragma unroll 1
    for (int tile = begin + row; tile < end; tile += plan.rows, ++turn) {
      const T* from = products + (sample * tiles + tile) * shape.channels + channel;
      Four<T> in[kSides][kSides], pixels[2][2];
#pragma unroll
      for (int r = 0; r < kSides; ++r) {
#pragma unroll
        for (int c = 0; c < kSides; ++c) in[r][c] = load_four(from + (r * kSides + c) * plane);
      }
      const int64_t at =
          ((sample * shape.height + tile / tiles_across * 2) * shape.width + tile % tiles_across * 2) * shape.channels + channel;
      const int steps[2] = {shape.width * shape.channels, shape.channels};
      if (output.residual) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
          for (int c = 0; c < 2; ++c) pixels[r][c] = load_four(static_cast<const T*>(output.residual) + at + r * steps[0] + c * steps[1]);
        }
      }
      float all[kFour][2][2] = {};
#pragma unroll
      for (int c = 0; c < kSides; ++c) {
#pragma unroll
        for (int k = 0; k < kFour; ++k) {
          float m[4] = {};
#pragma unroll
          for (int r = 0; r < kSides; ++r) m[place(kSides, r)] = to_float(in[r][c].values[k]);
          add_products(place(kSides, c), m, all[k]);
        }
      }
#pragma unroll
      for (int k = 0; k < kFour; ++k) {
        float (&y)[2][2] = all[k];
        float sum = 0.0f;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const float residual = output.residual ? to_float(pixels[r][c].values[k]) : 0.0f;
            from_float(y[r][c] + to_float(offset.values[k]) + residual, pixels[r][c].values[k]);
            y[r][c] = to_float(pixels[r][c].values[k]);
            sum += y[r][c];
          }
        }
        // Four more values with the mean `own`, to 4 * turn of before.
        const float own = 0.25f * sum, difference = own - mean[k], part = 1.0f / static_cast<float>(turn + 1);
        mean[k] += difference * part;
        spread[k] += 4.0f * static_cast<float>(turn) * part * difference * difference;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
          for (int c = 0; c < 2; ++c) spread[k] += (y[r][c] - own) * (y[r][c] - own);
        }
      }
      T* to = static_cast<T*>(output.pictures) + at;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int c = 0; c < 2; ++c) store_four(to + r * steps[0] + c * steps[1], pixels[r][c]);
      }
    }
  }
  if (output.groups == 0) return;
  if (row < plan.rows) {
#pragma unroll
    for (int k = 0; k < kFour; ++k) {
      shared[row * shape.channels + channel + k] = mean[k];
      shared[(plan.rows + row) * shape.channels + channel + k] = spread[k];
    }
  }
  __syncthreads();
  write_moments(
      shared, shared + plan.rows * shape.channels, plan.rows, shape.channels, output.groups,
      [&](int r) { return 4.0f * static_cast<float>(turns_of(r)); },
      output.moments + (sample * gridDim.x + blockIdx.x) * output.groups * kMoments);
}

// ----

template <typename T, int kSides>
void launch_input(const void* x, const Norm& norm, void* planes, const Shape& shape, cudaStream_t stream) {
  const int channels = kVectors * Lanes<T>::kWidth;
  const unsigned bands = static_cast<unsigned>((shape.height / 2 + kTileRows - 1) / kTileRows);
  const unsigned spans = static_cast<unsigned>((shape.width / 2 + kTileColumns - 1) / kTileColumns);
  const dim3 grid(bands * spans, static_cast<unsigned>((shape.channels + channels - 1) / channels), static_cast<unsigned>(shape.samples));
  input_kernel<T, kSides><<<grid, kThreads, 0, stream>>>(static_cast<const T*>(x), norm, static_cast<T*>(planes), shape);
}

template <typename T, int kSides>
void launch_output(const void* products, const Output& output, const Shape& shape, cudaStream_t stream) {
  const Plan plan = plan_for(shape);
  const dim3 grid(static_cast<unsigned>(plan.slices), static_cast<unsigned>(shape.samples));
  const size_t shared = output.groups > 0 ? sizeof(float) * 2 * plan.rows * shape.channels : 0;
  output_kernel<T, kSides><<<grid, plan.threads(), shared, stream>>>(static_cast<const T*>(products), output, shape, plan);
}

template <class Launch>
cudaError_t dispatch(const Shape& shape, FloatType type, Launch launch) {
  if (shape.tiles() == 0) return cudaSuccess;
  const auto with_sides = [&](auto zero) {
    if (shape.sides == kPlaces) {
      launch.template operator()<decltype(zero), kPlaces>();
    } else {
      launch.template operator()<decltype(zero), kPlacesEnlarged>();
    }
  };
  dispatch_type(type, with_sides);
  return cudaGetLastError();
}

}  // namespace

cudaError_t input_cuda(const void* x, const Norm& norm, void* planes, const Shape& shape, FloatType type, cudaStream_t stream) {
  return dispatch(shape, type, [&]<typename T, int kSides>() { launch_input<T, kSides>(x, norm, planes, shape, stream); });
}

cudaError_t output_cuda(const void* products, const Output& output, const Shape& shape, FloatType type, cudaStream_t stream) {
  return dispatch(shape, type, [&]<typename T, int kSides>() { launch_output<T, kSides>(products, output, shape, stream); });
}

}  // namespace md::winograd
