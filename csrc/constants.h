// Written by scripts/write_kernel_constants.py from microdreamer/kernels, where the numbers stand with their meaning.
#pragma once

#include <cstdint>

namespace md {
constexpr double kDeterminantFloor = 1e-24;
}  // namespace md

namespace md::adam {
constexpr int kMaxTensors = 16;
}  // namespace md::adam

namespace md::raster {
constexpr float kNear = 0.2f;
constexpr float kLowPass = 0.3f;
constexpr float kMinAlpha = 0.00392156862745098f;
constexpr float kMaxAlpha = 0.99f;
constexpr float kMinTransmittance = 0.0001f;
constexpr float kViewMargin = 0.3f;
constexpr float kMinSpread = 0.1f;
constexpr int kTile = 16;
}  // namespace md::raster

namespace md::grid_sampling {
constexpr int kMaxGrids = 8;
constexpr int64_t kMaxSize = 1048576;
}  // namespace md::grid_sampling

namespace md::hash_grid {
constexpr int kMaxLevels = 32;
constexpr float kLargestCell = 2147483520.0f;
constexpr uint32_t kPrimeY = 2654435761u;
constexpr uint32_t kPrimeZ = 805459861u;
}  // namespace md::hash_grid

namespace md::marching_cubes {
constexpr int kMaxFaces = 5;
constexpr float kNearest = 0.001f;
}  // namespace md::marching_cubes

namespace md::mesh_raster {
constexpr float kEdgeSlack = 0.0625f;
constexpr float kBoxMargin = 0.01f;
constexpr int64_t kMaxFaces = 16777216;
}  // namespace md::mesh_raster

namespace md::mesh_render {
constexpr float kNearPlane = 0.05f;
constexpr int kMaxLights = 8;
}  // namespace md::mesh_render

namespace md::perceptron {
constexpr int kInputStep = 16;
constexpr int kMostInputs = 48;
constexpr int kMostHidden = 256;
constexpr int kMostOutputs = 8;
}  // namespace md::perceptron

namespace md::texture {
constexpr int kMaxSide = 32768;
enum class Filter { kNearest, kLinear, kLinearMipmapLinear };
}  // namespace md::texture

namespace md::volume {
constexpr float kMaxOpticalDepth = 80.0f;
}  // namespace md::volume
