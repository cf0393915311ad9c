// Launchers of marching cubes: plain pointers and sizes, so that no .cu file needs a PyTorch header.
#pragma once

#include "marching_cubes_math.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::marching_cubes {

// P points; a cube belongs to its first point.
struct Counts {
  uint8_t* cuts;      // [P], bit a: the edge along axis a is cut
  int32_t* vertices;  // [P]
  int32_t* faces;     // [P]
};

struct Output {
  const uint8_t* cuts;            // [P]
  const int32_t* vertices_until;  // [P], running sums of Counts, a point's own included
  const int32_t* faces_until;     // [P]
  float* vertices;                // [V, 3]
  int32_t* faces;                 // [F, 3]
};

// Writes the vertices of the edges that start at a point and the faces of its cube.
MD_HOST_DEVICE void write_point(const Grid& grid, const Place& place, int64_t point, const int8_t* table, const Output& output) {
  const unsigned cuts = output.cuts[point];
  if (cuts != 0) write_vertices(grid, place, point, cuts, output.vertices + 3 * int64_t{output.vertices_until[point] - bit_count(cuts)});
  const int32_t first_face = point > 0 ? output.faces_until[point - 1] : 0;
  const int count = output.faces_until[point] - first_face;
  if (count == 0) return;
  const int8_t* row = table + case_of(grid, place, point) * 3 * kMaxFaces;
  write_faces(grid, point, row, count, output.cuts, output.vertices_until, output.faces + 3 * int64_t{first_face});
}

void count_cpu(const Grid& grid, const int8_t* table, const Counts& counts);
void write_cpu(const Grid& grid, const int8_t* table, const Output& output);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
cudaError_t count_cuda(const Grid& grid, const int8_t* table, const Counts& counts, cudaStream_t stream);
cudaError_t write_cuda(const Grid& grid, const int8_t* table, const Output& output, cudaStream_t stream);
#endif

}  // namespace md::marching_cubes
