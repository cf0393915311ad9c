// Edge collapse by quadric error (Garland and Heckbert, "Surface simplification using quadric error metrics", 1997) on half-edges.
// An edge goes only if the surface stays a closed manifold (its ends have the two opposite corners as their only common
// neighbours) and no face turns over or becomes a needle, so that nothing has to be mended afterwards.
//
// Large meshes are first cut into kParts blocks of vertices, whose inner edges collapse in parallel; the rest is done as a whole.
// The blocks do not depend on the number of threads, and neither does the result.
#include "mesh_simplify.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace md::mesh_simplify {

namespace {

constexpr int kDepth = 4, kParts = 1 << kDepth;
constexpr double kPartsStop = 2.0;       // times the target: where the blocks' own work ends, so that the last half is chosen over all
constexpr int64_t kPartsFaces = 50'000;  // and at least this many stay: of smaller blocks the borders, which cannot go, are too much
constexpr double kStay = 1e-5;      // weight of distances along the surface against those from it: keeps vertices in place on flat parts
constexpr double kMostTurn = 0.2;   // least cosine between a face's normals before and after
constexpr double kThinnest = 0.02;  // least height of a face as a share of its longest edge, unless it was thinner before
constexpr int32_t kGone = -1;
constexpr int64_t kGrain = 8192;  // half-edges or vertices of one piece of parallel work

struct Vec {
  double x, y, z;
};
Vec operator+(const Vec& a, const Vec& b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
Vec operator-(const Vec& a, const Vec& b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
Vec operator*(const Vec& a, double s) { return {a.x * s, a.y * s, a.z * s}; }
double dot(const Vec& a, const Vec& b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
Vec cross(const Vec& a, const Vec& b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }

// x^T A x + 2 b^T x + c
struct Quadric {
  double xx = 0, xy = 0, xz = 0, yy = 0, yz = 0, zz = 0;
  Vec b{0, 0, 0};
  double c = 0;

  void operator+=(const Quadric& q) {
    xx += q.xx, xy += q.xy, xz += q.xz, yy += q.yy, yz += q.yz, zz += q.zz;
    b = b + q.b;
    c += q.c;
  }
  Vec times(const Vec& p) const { return {xx * p.x + xy * p.y + xz * p.z, xy * p.x + yy * p.y + yz * p.z, xz * p.x + yz * p.y + zz * p.z}; }
  double at(const Vec& p) const { return dot(p, times(p)) + 2 * dot(b, p) + c; }
};

// Squared distance to the plane of a face and, with a small weight, to its corner, times a third of the face's area.
Quadric face_quadric(const Vec& corner, const Vec& normal_times_two_areas) {
  const double twice = std::sqrt(dot(normal_times_two_areas, normal_times_two_areas));
  Quadric q;
  if (twice <= 0) return q;
  const Vec n = normal_times_two_areas * (1 / twice);
  const double w = twice / 6, d = -dot(n, corner);
  q.xx = w * (n.x * n.x + kStay), q.xy = w * n.x * n.y, q.xz = w * n.x * n.z;
  q.yy = w * (n.y * n.y + kStay), q.yz = w * n.y * n.z, q.zz = w * (n.z * n.z + kStay);
  q.b = (n * d - corner * kStay) * w;
  q.c = w * (d * d + kStay * dot(corner, corner));
  return q;
}

// Where the quadric is least: A is positive definite as soon as a face has an area.
bool least_point(const Quadric& q, Vec* point) {
  const double a_xx = q.yy * q.zz - q.yz * q.yz, a_xy = q.xz * q.yz - q.xy * q.zz, a_xz = q.xy * q.yz - q.xz * q.yy;
  const double determinant = q.xx * a_xx + q.xy * a_xy + q.xz * a_xz;
  if (!(determinant > 0)) return false;
  const double a_yy = q.xx * q.zz - q.xz * q.xz, a_yz = q.xy * q.xz - q.xx * q.yz, a_zz = q.xx * q.yy - q.xy * q.xy;
  const double s = -1 / determinant;
  *point = {s * (a_xx * q.b.x + a_xy * q.b.y + a_xz * q.b.z), s * (a_xy * q.b.x + a_yy * q.b.y + a_yz * q.b.z),
            s * (a_xz * q.b.x + a_yz * q.b.y + a_zz * q.b.z)};
  return std::isfinite(point->x) && std::isfinite(point->y) && std::isfinite(point->z);
}

struct Candidate {
  double cost;
  int32_t edge;
  bool operator<(const Candidate& other) const { return cost != other.cost ? cost < other.cost : edge < other.edge; }
};

// Edges by cost, each at most once: a heap of four children a node, which knows where every edge is, so that new costs leave no old
// ones behind. `places` [3F] is shared by queues of different edges.
class Queue {
 public:
  Queue(std::vector<Candidate> candidates, std::vector<int32_t>& places) : heap_(std::move(candidates)), places_(places) {
    for (size_t k = 0; k < heap_.size(); ++k) places_[heap_[k].edge] = static_cast<int32_t>(k);
    for (size_t parents = (heap_.size() + kChildren - 2) / kChildren; parents-- > 0;) sink(parents, heap_[parents]);
  }

  ~Queue() {
    for (const Candidate& candidate : heap_) places_[candidate.edge] = kGone;
  }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  bool empty() const { return heap_.empty(); }

  // Takes out the edge of least cost.
  int32_t pop() {
    const int32_t edge = heap_.front().edge;
    places_[edge] = kGone;
    const Candidate last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) sink(0, last);
    return edge;
  }

  // Puts an edge in, or gives it another cost.
  void set(const Candidate& candidate) {
    size_t k = places_[candidate.edge];
    if (places_[candidate.edge] == kGone) {
      k = heap_.size();
      heap_.push_back(candidate);
    } else if (heap_[k] < candidate) {
      return sink(k, candidate);
    }
    for (; k > 0 && candidate < heap_[(k - 1) / kChildren]; k = (k - 1) / kChildren) put(k, heap_[(k - 1) / kChildren]);
    put(k, candidate);
  }

 private:
  static constexpr size_t kChildren = 4;

  void put(size_t k, const Candidate& candidate) {
    heap_[k] = candidate;
    places_[candidate.edge] = static_cast<int32_t>(k);
  }

  // Puts a candidate at k or as far below as it belongs.
  void sink(size_t k, const Candidate candidate) {
    for (;;) {
      const size_t first = kChildren * k + 1, end = std::min(first + kChildren, heap_.size());
      if (first >= end) break;
      size_t least = first;
      for (size_t child = first + 1; child < end; ++child) least = heap_[child] < heap_[least] ? child : least;
      if (!(heap_[least] < candidate)) break;
      put(k, heap_[least]);
      k = least;
    }
    put(k, candidate);
  }

  std::vector<Candidate> heap_;
  std::vector<int32_t>& places_;
};

// Half-edge 3 f + k runs from corner k of face f to the next.
int32_t next_of(int32_t h) { return h % 3 == 2 ? h - 2 : h + 1; }
int32_t previous_of(int32_t h) { return h % 3 == 0 ? h + 2 : h - 1; }

// The opposite of every half-edge, found among those that leave its end; empty where some have none or several, or a vertex has
// several fans of faces.
std::vector<int32_t> opposites(const std::vector<int32_t>& start, int64_t vertex_count) {
  struct Leaving {
    int32_t half_edge, end;
  };
  const auto count = static_cast<int32_t>(start.size());
  std::vector<int32_t> bucket(vertex_count + 1, 0), opposite(count);
  std::vector<Leaving> leaving(count);
  for (const int32_t v : start) ++bucket[v + 1];
  std::partial_sum(bucket.begin(), bucket.end(), bucket.begin());
  std::vector<int32_t> filled(bucket.begin(), bucket.end() - 1);
  for (int32_t h = 0; h < count; ++h) leaving[filled[start[h]]++] = {h, start[next_of(h)]};
  std::atomic<bool> closed = true;
  at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    for (auto h = static_cast<int32_t>(begin); h < end; ++h) {
      const int32_t from = start[h], to = start[next_of(h)];
      int32_t found = kGone, number = 0;
      for (int32_t i = bucket[to]; i < bucket[to + 1]; ++i) {
        if (leaving[i].end == from) found = leaving[i].half_edge, ++number;
      }
      if (from == to || number != 1) closed = false;
      opposite[h] = found;
    }
  });
  if (!closed) return {};
  // With one opposite each, a half-edge that another one repeats would be the opposite of two.
  at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    for (auto h = static_cast<int32_t>(begin); h < end; ++h) {
      if (opposite[opposite[h]] != h) closed = false;
    }
  });
  if (!closed) return {};
  at::parallel_for(0, vertex_count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int32_t corners = bucket[v + 1] - bucket[v];
      if (corners == 0) continue;
      const int32_t first = leaving[bucket[v]].half_edge;
      int32_t h = first, fan = 0;
      do {
        ++fan;
        h = opposite[previous_of(h)];
      } while (h != first);
      if (fan != corners) closed = false;
    }
  });
  if (!closed) return {};
  return opposite;
}

class Surface {
 public:
  Surface(const double* vertices, int64_t vertex_count, const int64_t* faces, int64_t face_count)
      : points_(vertex_count),
        quadrics_(vertex_count),
        start_(3 * face_count),
        leaving_(vertex_count, kGone),
        places_(3 * face_count, kGone) {
    Vec low{vertices[0], vertices[1], vertices[2]}, high = low;
    for (int64_t v = 0; v < vertex_count; ++v) {
      const Vec p{vertices[3 * v], vertices[3 * v + 1], vertices[3 * v + 2]};
      points_[v] = p;
      low = {std::min(low.x, p.x), std::min(low.y, p.y), std::min(low.z, p.z)};
      high = {std::max(high.x, p.x), std::max(high.y, p.y), std::max(high.z, p.z)};
    }
    // Numbers of about 1 around the origin keep the quadrics' digits.
    middle_ = (low + high) * 0.5;
    size_ = std::max({high.x - low.x, high.y - low.y, high.z - low.z, std::numeric_limits<double>::min()});
    for (Vec& p : points_) p = (p - middle_) * (1 / size_);
    for (int64_t k = 0; k < 3 * face_count; ++k) {
      start_[k] = static_cast<int32_t>(faces[k]);
      leaving_[start_[k]] = static_cast<int32_t>(k);
    }
    opposite_ = opposites(start_, vertex_count);
    for (int32_t f = 0; f < face_count; ++f) {
      const Vec normal = face_normal(start_[3 * f], start_[3 * f + 1], start_[3 * f + 2]);
      for (int k = 0; k < 3; ++k) quadrics_[start_[3 * f + k]] += face_quadric(points_[start_[3 * f + k]], normal);
    }
    faces_left_ = face_count;
  }

  bool is_closed() const { return !opposite_.empty(); }

  // Collapses edges between vertices of each block, all of whose neighbours lie in it, until `target` faces are left overall.
  void collapse_in_parts(int64_t target) {
    split_into_parts();
    std::array<std::vector<int32_t>, kParts> edges;
    std::array<int64_t, kParts> faces{}, removed{};
    for (int32_t h = 0; h < static_cast<int32_t>(start_.size()); ++h) {
      const int part = part_[start_[h]];
      faces[part] += h % 3 == 0;
      if (h < opposite_[h] && part_[end_of(h)] == part) edges[part].push_back(h);
    }
    const double share = 1 - static_cast<double>(target) / static_cast<double>(faces_left_);
    at::parallel_for(0, kParts, 1, [&](int64_t begin, int64_t end) {
      for (auto part = static_cast<int>(begin); part < end; ++part) {
        removed[part] = collapse(edges[part], part, static_cast<int64_t>(share * static_cast<double>(faces[part])), true);
      }
    });
    for (const int64_t count : removed) faces_left_ -= count;
  }

  // Collapses edges until at most `target` faces are left, or none can go.
  void collapse_all(int64_t target) {
    for (const bool careful : {true, false}) {
      if (faces_left_ <= target) return;
      std::vector<int32_t> edges;
      for (int32_t h = 0; h < static_cast<int32_t>(start_.size()); ++h) {
        if (start_[h] != kGone && h < opposite_[h]) edges.push_back(h);
      }
      faces_left_ -= collapse(edges, kWhole, faces_left_ - target, careful);
    }
  }

  Mesh result() const {
    Mesh mesh;
    std::vector<int32_t> number(points_.size(), kGone);
    std::vector<bool> used(points_.size(), false);
    for (const int32_t v : start_) {
      if (v != kGone) used[v] = true;
    }
    int32_t count = 0;
    for (size_t v = 0; v < points_.size(); ++v) {
      if (!used[v]) continue;
      number[v] = count++;
      const Vec p = points_[v] * size_ + middle_;
      mesh.vertices.insert(mesh.vertices.end(), {p.x, p.y, p.z});
    }
    for (const int32_t v : start_) {
      if (v != kGone) mesh.faces.push_back(number[v]);
    }
    return mesh;
  }

 private:
  static constexpr int kWhole = -1;

  Vec face_normal(int32_t a, int32_t b, int32_t c) const { return cross(points_[b] - points_[a], points_[c] - points_[a]); }
  int32_t end_of(int32_t h) const { return start_[next_of(h)]; }
  int32_t edge_of(int32_t h) const { return std::min(h, opposite_[h]); }

  // Calls visit(h) for the half-edges that leave a vertex, until it returns false.
  template <typename Visit>
  bool around(int32_t vertex, const Visit& visit) const {
    int32_t h = leaving_[vertex];
    do {
      if (!visit(h)) return false;
      h = opposite_[previous_of(h)];
    } while (h != leaving_[vertex]);
    return true;
  }

  void split_into_parts() {
    std::vector<int32_t> order(points_.size());
    std::iota(order.begin(), order.end(), 0);
    part_.assign(points_.size(), 0);
    split(order.data(), order.data() + order.size(), 0, 0);
  }

  // Halves a range of vertices across its longest side, kDepth times.
  void split(int32_t* begin, int32_t* end, int depth, int number) {
    if (depth == kDepth || begin == end) {
      for (int32_t* v = begin; v != end; ++v) part_[*v] = static_cast<int8_t>(number);
      return;
    }
    Vec low = points_[*begin], high = low;
    for (int32_t* v = begin; v != end; ++v) {
      const Vec& p = points_[*v];
      low = {std::min(low.x, p.x), std::min(low.y, p.y), std::min(low.z, p.z)};
      high = {std::max(high.x, p.x), std::max(high.y, p.y), std::max(high.z, p.z)};
    }
    const Vec side = high - low;
    double Vec::* axis = side.x >= side.y && side.x >= side.z ? &Vec::x : side.y >= side.z ? &Vec::y : &Vec::z;
    int32_t* half = begin + (end - begin) / 2;
    std::nth_element(begin, half, end, [&](int32_t a, int32_t b) {
      return points_[a].*axis != points_[b].*axis ? points_[a].*axis < points_[b].*axis : a < b;
    });
    split(begin, half, depth + 1, 2 * number);
    split(half, end, depth + 1, 2 * number + 1);
  }

  bool is_within(int32_t vertex, int part) const {
    return part == kWhole || (part_[vertex] == part && around(vertex, [&](int32_t h) { return part_[end_of(h)] == part; }));
  }

  double cost_of(int32_t h, Vec* place) const {
    const int32_t a = start_[h], b = end_of(h);
    Quadric both = quadrics_[a];
    both += quadrics_[b];
    const Vec middle = (points_[a] + points_[b]) * 0.5, along = points_[a] - points_[b];
    if (!least_point(both, place) || dot(*place - middle, *place - middle) > 4 * dot(along, along)) *place = middle;
    return std::max(both.at(*place), 0.0);
  }

  // The two faces at an edge are its only ones that touch both ends, and no third face stays on two of their corners.
  bool keeps_manifold(int32_t h) const {
    const int32_t a = start_[h], b = end_of(h);
    int common = 0;
    around(a, [&](int32_t to) {
      const int32_t neighbour = end_of(to);
      common += !around(b, [&](int32_t other) { return end_of(other) != neighbour; });
      return true;
    });
    if (common != 2) return false;
    for (const int32_t corner : {start_[previous_of(h)], start_[previous_of(opposite_[h])]}) {
      int faces = 0;
      around(corner, [&](int32_t) { return ++faces < 4; });
      if (faces < 4) return false;
    }
    return true;
  }

  // Whether the faces around `vertex` that do not touch `other` keep their side and shape when it moves to `place`.
  bool keeps_faces(int32_t vertex, int32_t other, const Vec& place) const {
    return around(vertex, [&](int32_t h) {
      const int32_t p = end_of(h), q = start_[previous_of(h)];
      if (p == other || q == other) return true;
      const Vec &at_p = points_[p], &at_q = points_[q], &before = points_[vertex];
      const Vec old_normal = cross(at_p - before, at_q - before), normal = cross(at_p - place, at_q - place);
      const double old_square = dot(old_normal, old_normal), square = dot(normal, normal), cosine = dot(old_normal, normal);
      if (cosine <= 0 || cosine * cosine < kMostTurn * kMostTurn * old_square * square) return false;
      const Vec base = at_q - at_p;
      const auto longest = [&](const Vec& apex) {
        return std::max({dot(base, base), dot(at_p - apex, at_p - apex), dot(at_q - apex, at_q - apex)});
      };
      const double length = longest(place), old_length = longest(before);  // squared; twice the area is length times height
      return square >= kThinnest * kThinnest * length * length || square * old_length * old_length >= old_square * length * length;
    });
  }

  // Takes out h, its opposite and their two faces; the end of h becomes its start, which moves.
  void remove(int32_t h, const Vec& place) {
    const int32_t a = start_[h], b = end_of(h), t = opposite_[h];
    around(b, [&](int32_t to) {
      start_[to] = a;
      return true;
    });
    quadrics_[a] += quadrics_[b];
    points_[a] = place;
    for (const int32_t side : {h, t}) {
      const int32_t one = opposite_[next_of(side)], other = opposite_[previous_of(side)];
      opposite_[one] = other;
      opposite_[other] = one;
      // `one` ends where the other side begins: at the start of the next half-edge of the face that goes.
      leaving_[start_[one]] = one;
      leaving_[start_[other]] = other;
      start_[side] = start_[next_of(side)] = start_[previous_of(side)] = kGone;
    }
  }

  // Collapses some of the edges, those of a block or of the whole, until `most` faces are gone; returns how many are.
  int64_t collapse(const std::vector<int32_t>& edges, int part, int64_t most, bool careful) {
    Vec place{};
    std::vector<Candidate> candidates(edges.size());
    at::parallel_for(0, static_cast<int64_t>(edges.size()), kGrain, [&](int64_t begin, int64_t end) {
      Vec unused{};
      for (int64_t k = begin; k < end; ++k) candidates[k] = {cost_of(edges[k], &unused), edges[k]};
    });
    Queue queue(std::move(candidates), places_);
    int64_t removed = 0;
    while (removed < most && !queue.empty()) {
      const int32_t h = queue.pop();
      if (start_[h] == kGone || opposite_[h] < h) continue;  // went with a face, or goes by its opposite's name since
      const int32_t a = start_[h], b = end_of(h);
      if (!is_within(a, part) || !is_within(b, part) || !keeps_manifold(h)) continue;
      cost_of(h, &place);
      if (careful && !(keeps_faces(a, b, place) && keeps_faces(b, a, place))) continue;
      remove(h, place);
      removed += 2;
      around(a, [&](int32_t to) {
        const int32_t edge = edge_of(to);
        if (part == kWhole || part_[end_of(to)] == part) queue.set({cost_of(edge, &place), edge});
        return true;
      });
    }
    return removed;
  }

  std::vector<Vec> points_;
  std::vector<Quadric> quadrics_;
  std::vector<int32_t> start_;     // [3F] the vertex that a half-edge leaves; kGone where its face is gone
  std::vector<int32_t> opposite_;  // [3F]
  std::vector<int32_t> leaving_;   // [V] one of the half-edges that leave a vertex
  std::vector<int32_t> places_;    // [3F] of an edge in its queue, at its smaller half-edge; kGone where it is in none
  std::vector<int8_t> part_;       // [V]
  Vec middle_{};
  double size_ = 1;
  int64_t faces_left_ = 0;
};

}  // namespace

bool is_closed_manifold(const int64_t* faces, int64_t face_count, int64_t vertex_count) {
  std::vector<int32_t> start(faces, faces + 3 * face_count);
  return face_count == 0 || !opposites(start, vertex_count).empty();
}

std::optional<Mesh> simplify(const double* vertices, int64_t vertex_count, const int64_t* faces, int64_t face_count, int64_t target_faces) {
  Surface surface(vertices, vertex_count, faces, face_count);
  if (!surface.is_closed()) return std::nullopt;
  const int64_t stop = std::max(kPartsFaces, static_cast<int64_t>(kPartsStop * static_cast<double>(target_faces)));
  if (stop < face_count) surface.collapse_in_parts(stop);
  surface.collapse_all(target_faces);
  return surface.result();
}

}  // namespace md::mesh_simplify
