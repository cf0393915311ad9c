// Simplification of closed triangle meshes, on the CPU.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace md::mesh_simplify {

struct Mesh {
  std::vector<double> vertices;  // [V, 3]
  std::vector<int32_t> faces;    // [F, 3]
};

// Whether every half-edge of the faces [F, 3] has one opposite and the faces around every vertex form one fan.
bool is_closed_manifold(const int64_t* faces, int64_t face_count, int64_t vertex_count);

// Collapses edges, cheapest first, until at most `target_faces` are left or no edge can go. Nothing for faces that are not a
// closed manifold, or none.
std::optional<Mesh> simplify(const double* vertices, int64_t vertex_count, const int64_t* faces, int64_t face_count, int64_t target_faces);

}  // namespace md::mesh_simplify
