// Volume rendering: the entry points of the CPU and CUDA versions. Plain pointers to contiguous memory; the caller allocates.
#pragma once

#include <vector>

#include "volume_math.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::volume {

// Pieces of N rays, packed by ray; what does not fit into `capacity` is cut off.
struct SampleLists {
  int64_t* ray;      // [capacity], zeros to begin with, as are the next two
  float* start;      // [capacity]
  float* length;     // [capacity]
  int* source;       // [capacity], of samples chosen from a list: their places in it; zeros to begin with; null where there is none
  int* offsets;      // [N+1]
  int64_t capacity;  // M
};

struct Packed {
  const int64_t* ray;   // [M]
  const float* start;   // [M]
  const float* length;  // [M]
  const int* offsets;   // [N+1]
  int64_t rays;         // N
  int64_t capacity;     // M
};

struct Visibility {
  Packed samples;
  const float* density;    // [M]
  const float* min_alpha;  // [1]
  float min_transmittance;
};

struct Composition {
  Packed samples;         // `ray` is not read
  const float* density;   // [M]
  const float* features;  // [M,C]
  int64_t channels;       // C
};

struct Sums {
  float* features;  // [N,C]
  float* alpha;     // [N]
  float* depth;     // [N]
  float* weights;   // [M], zeros to begin with
};

// Of a loss; null where nothing depends on it.
struct SumGradients {
  const float* features;
  const float* alpha;
  const float* depth;
  const float* weights;
};

// Null where not wanted; zeros to begin with.
struct SampleGradients {
  float* density;   // [M]
  float* features;  // [M,C]
};

// Of the middles of pieces.
struct Places {
  Packed samples;           // offsets are not read
  const float* origins;     // [N,3]
  const float* directions;  // [N,3]
  float* points;            // [M,3]
};

// Each list is made in two passes. The first counts: counts [N+1], of which the first is 0 and the rest are the rays'; of visible
// samples also which they are, keep [M]. The second takes the sums of the counts so far, prefix [N+1], and writes.
// On the CPU the first pass of the march keeps what it finds, for the second to copy: marching costs more than memory.
struct Pieces {
  std::vector<float> start, length;
};
std::vector<Pieces> count_pieces_cpu(const March& in, int* counts);
void write_pieces_cpu(const std::vector<Pieces>& found, int64_t rays, const int* prefix, const SampleLists& out);
void count_visible_cpu(const Visibility& in, uint8_t* keep, int* counts);
void write_visible_cpu(const Visibility& in, const uint8_t* keep, const int* prefix, const SampleLists& out);
void sample_points_cpu(const Places& in);
void composite_cpu(const Composition& in, const Sums& out);
void composite_backward_cpu(const Composition& in, const float* weights, const SumGradients& v, const SampleGradients& out);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
cudaError_t count_pieces_cuda(const March& in, int* counts, cudaStream_t stream);
cudaError_t write_pieces_cuda(const March& in, const int* prefix, const SampleLists& out, cudaStream_t stream);
cudaError_t count_visible_cuda(const Visibility& in, uint8_t* keep, int* counts, cudaStream_t stream);
cudaError_t write_visible_cuda(const Visibility& in, const uint8_t* keep, const int* prefix, const SampleLists& out, cudaStream_t stream);
cudaError_t sample_points_cuda(const Places& in, cudaStream_t stream);
// out [K, row] from table [., row] of 16-byte pieces: the rows that source [K] names.
cudaError_t take_rows_cuda(const void* table, const int* source, void* out, int64_t rows, int64_t pieces, cudaStream_t stream);
cudaError_t composite_cuda(const Composition& in, const Sums& out, cudaStream_t stream);
cudaError_t composite_backward_cuda(const Composition& in, const float* weights, const SumGradients& v, const SampleGradients& out,
                                    cudaStream_t stream);
#endif

}  // namespace md::volume
