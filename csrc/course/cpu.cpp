// The steps of field_steps.h on the CPU: the blocks of the GPU's grid spread over threads, the threads of a block one after the other.
#include <ATen/Parallel.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "course/field_steps.h"

namespace md::course {

namespace {

int64_t blocks_for(int64_t threads) { return (threads + kThreads - 1) / kThreads; }

// `kernel(block, thread)` for every thread of a grid of `blocks` blocks.
template <typename Kernel>
void launch(int64_t blocks, Kernel kernel) {
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      for (int thread = 0; thread < kThreads; ++thread) kernel(block, thread);
    }
  });
}

void launch_brute_force(const FieldParams& p, bool centres, bool bound) {
  const int64_t voxels = voxels_of(p.grid);
  launch(blocks_for(voxels), [&](int64_t block, int thread) {
    const int64_t voxel = block * kThreads + thread;
    if (bound && voxel >= voxels) return;
    if (voxel >= voxels) {  // what compute-sanitizer says of the GPU's kernel
      throw std::out_of_range("invalid write: thread " + std::to_string(thread) + " of block " + std::to_string(block) + " writes voxel " +
                              std::to_string(voxel) + " of a field of " + std::to_string(voxels));
    }
    p.field[voxel] = brute_force(p, voxel, centres);
  });
}

void launch_prepared(const FieldParams& p, const Prepared* prepared) {
  const int64_t voxels = voxels_of(p.grid);
  launch(blocks_for(voxels), [&](int64_t block, int thread) {
    const int64_t index = block * kThreads + thread;
    if (index >= voxels) return;
    const Voxel voxel = voxel_of(index, p.grid.resolution);
    float sum = 0.0f;
    for (int64_t i = 0; i < p.num_gaussians; ++i) sum += term(prepared[i], p, i, voxel);
    p.field[index] = sum;
  });
}

// One block of the staged kernels. Between two barriers of the GPU's kernel all its threads do their part; without them a warp goes on
// before the next has begun, and finds of that one's part what the batch before has left there.
void run_staged_block(const FieldParams& p, const Prepared* prepared, const Voxel& tile, bool cull, bool barrier) {
  const int resolution = p.grid.resolution;
  Prepared staged[kBatch] = {};
  bool members[kBatch] = {};
  float sums[kThreads] = {};
  for (int64_t first = 0; first < p.num_gaussians; first += kBatch) {
    const int count = static_cast<int>(std::min<int64_t>(kBatch, p.num_gaussians - first));
    const auto fetch = [&](int warp) {
      for (int k = warp * kWarp; k < (warp + 1) * kWarp; ++k) {
        if (k < count) staged[k] = prepared[first + k];
        members[k] = k < count && (!cull || touches(staged[k].box, tile));
      }
    };
    const auto add = [&](int warp) {
      for (int k = 0; k < kBatch; ++k) {
        if (!members[k]) continue;
        for (int thread = warp * kWarp; thread < (warp + 1) * kWarp; ++thread) {
          const int64_t i = std::min(first + k, p.num_gaussians - 1);  // what was left there may have been of a longer batch
          sums[thread] += term(staged[k], p, i, voxel_of_thread(tile, thread));
        }
      }
    };
    if (barrier) {
      for (int warp = 0; warp < kWarps; ++warp) fetch(warp);
      for (int warp = 0; warp < kWarps; ++warp) add(warp);
    } else {
      for (int warp = 0; warp < kWarps; ++warp) {
        fetch(warp);
        add(warp);
      }
    }
  }
  for (int thread = 0; thread < kThreads; ++thread) {
    const Voxel voxel = voxel_of_thread(tile, thread);
    if (voxel.at[0] >= resolution || voxel.at[1] >= resolution || voxel.at[2] >= resolution) continue;
    p.field[(int64_t{voxel.at[0]} * resolution + voxel.at[1]) * resolution + voxel.at[2]] = sums[thread];
  }
}

void launch_staged(const FieldParams& p, const Prepared* prepared, bool cull, bool barrier) {
  const int64_t along_y = tiles_along(1, p.grid), along_z = tiles_along(2, p.grid);
  at::parallel_for(0, tiles_along(0, p.grid) * along_y * along_z, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const Voxel tile{{static_cast<int>(block / (along_y * along_z)) * kTileX, static_cast<int>(block / along_z % along_y) * kTileY,
                        static_cast<int>(block % along_z) * kTileZ}};
      run_staged_block(p, prepared, tile, cull, barrier);
    }
  });
}

}  // namespace

void extract_fields_cpu(const FieldParams& p, Variant variant, Prepared* scratch) {
  switch (variant) {
    case Variant::kBruteForce:
      launch_brute_force(p, false, true);
      return;
    case Variant::kWrongGrid:
      launch_brute_force(p, true, true);
      return;
    case Variant::kWrongBound:
      launch_brute_force(p, false, false);
      return;
    default:
      break;
  }
  for (int64_t i = 0; i < p.num_gaussians; ++i) prepare(p, i, variant == Variant::kWrongInput, scratch[i]);
  switch (variant) {
    case Variant::kShared:
      launch_staged(p, scratch, false, true);
      break;
    case Variant::kCulled:
      launch_staged(p, scratch, true, true);
      break;
    case Variant::kWrongBarrier:
      launch_staged(p, scratch, true, false);
      break;
    default:
      launch_prepared(p, scratch);
  }
}

}  // namespace md::course
