// What a step of fitting Gaussians does besides rendering them, each in one pass: launchers with plain pointers and sizes.
// N Gaussians; V views with targets and R more that show the reference (0 or 1).
#pragma once

#include "common.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::fit {

constexpr float kShortest = 1e-12f;  // quaternions below are divided by this instead of their length

struct Raw {
  const float* log_scales;      // [N,3]
  const float* quaternions;     // [N,4]
  const float* opacity_logits;  // [N]
};

struct Active {
  float* scales;     // [N,3]
  float* rotations;  // [N,4]
  float* opacities;  // [N]
};

struct ActiveGradients {
  const float* quaternions;  // [N,4], [N,3] and [N]: what the forward pass took and gave
  const float* scales;
  const float* opacities;
  const float* v_scales;
  const float* v_rotations;
  const float* v_opacities;
};

struct RawGradients {
  float* v_log_scales;
  float* v_quaternions;
  float* v_opacity_logits;
};

struct Vector4 {
  float v[4];
};

MD_HOST_DEVICE Vector4 load4(const float* p) { return {p[0], p[1], p[2], p[3]}; }
MD_HOST_DEVICE float dot(const Vector4& a, const Vector4& b) {
  return a.v[0] * b.v[0] + a.v[1] * b.v[1] + a.v[2] * b.v[2] + a.v[3] * b.v[3];
}

// This and the next read everything before they write: the compiler could not move a load before a store.
MD_HOST_DEVICE void activate(const Raw& in, const Active& out, int64_t i) {
  const float log_scales[3] = {in.log_scales[3 * i], in.log_scales[3 * i + 1], in.log_scales[3 * i + 2]};
  const Vector4 q = load4(in.quaternions + 4 * i);
  const float logit = in.opacity_logits[i];
  const float length = sqrtf(dot(q, q)), divisor = length > kShortest ? length : kShortest;
  for (int k = 0; k < 3; ++k) out.scales[3 * i + k] = expf(log_scales[k]);
  for (int k = 0; k < 4; ++k) out.rotations[4 * i + k] = q.v[k] / divisor;
  out.opacities[i] = 1.0f / (1.0f + expf(-logit));
}

MD_HOST_DEVICE void activate_backward(const ActiveGradients& in, const RawGradients& out, int64_t i) {
  float v_log_scales[3];
  for (int k = 0; k < 3; ++k) v_log_scales[k] = in.v_scales[3 * i + k] * in.scales[3 * i + k];
  const Vector4 q = load4(in.quaternions + 4 * i), v = load4(in.v_rotations + 4 * i);
  const float opacity = in.opacities[i], v_opacity = in.v_opacities[i];
  const float length = sqrtf(dot(q, q)), divisor = length > kShortest ? length : kShortest;
  // Along the quaternion only its length changes, which the division takes out again where it is one by the length.
  const float along = length < kShortest ? 0.0f : dot(v, q) / (divisor * divisor);
  for (int k = 0; k < 3; ++k) out.v_log_scales[3 * i + k] = v_log_scales[k];
  for (int k = 0; k < 4; ++k) out.v_quaternions[4 * i + k] = (v.v[k] - along * q.v[k]) / divisor;
  out.v_opacity_logits[i] = v_opacity * opacity * (1.0f - opacity);
}

// Screen-space gradients and the views in which a Gaussian shows, added to what there is.
struct Statistics {
  const int* radii;        // [V + R, N] px, 0 where culled
  const float* v_means2d;  // [V + R, N, 2]
  float* gradient_sum;     // [N]
  float* gradient_hits;    // [N]
  int64_t count;           // N
  int64_t views;           // V + R
};

MD_HOST_DEVICE void record(const Statistics& in, int64_t i) {
  float sum = 0.0f, hits = 0.0f;
  for (int64_t view = 0; view < in.views; ++view) {
    const int64_t at = view * in.count + i;
    const bool is_shown = in.radii[at] > 0;
    const float x = in.v_means2d[2 * at], y = in.v_means2d[2 * at + 1];
    sum += is_shown ? sqrtf(x * x + y * y) : 0.0f;
    hits += is_shown ? 1.0f : 0.0f;
  }
  in.gradient_sum[i] += sum;
  in.gradient_hits[i] += hits;
}

// weight sum |image - target| + reference_weight sum |image - reference| + mask_weight sum (alpha - mask)^2, where the reference's
// views come after those with targets.
struct Loss {
  const float* image;      // [V + R, 3, H, W]
  const float* alpha;      // [V + R, 1, H, W], like the next two null where R = 0
  const float* targets;    // [V, 3, H, W]
  const float* reference;  // [R, 3, H, W]
  const float* mask;       // [R, 1, H, W]
  int64_t target_pixels;   // V H W
  int64_t reference_pixels;
  float weight, reference_weight, mask_weight;
};

struct LossGradients {
  const float* v_loss;  // one number
  float* v_image;       // like image
  float* v_alpha;       // like alpha
};

void activate_cpu(const Raw& in, const Active& out, int64_t count);
void activate_backward_cpu(const ActiveGradients& in, const RawGradients& out, int64_t count);
void record_cpu(const Statistics& in);
float loss_cpu(const Loss& in);
void loss_backward_cpu(const Loss& in, const LossGradients& out);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
constexpr int kPartialSums = 1024;  // floats of scratch that loss_cuda wants

cudaError_t activate_cuda(const Raw& in, const Active& out, int64_t count, cudaStream_t stream);
cudaError_t activate_backward_cuda(const ActiveGradients& in, const RawGradients& out, int64_t count, cudaStream_t stream);
cudaError_t record_cuda(const Statistics& in, cudaStream_t stream);
cudaError_t loss_cuda(const Loss& in, float* partial_sums, float* loss, cudaStream_t stream);
cudaError_t loss_backward_cuda(const Loss& in, const LossGradients& out, cudaStream_t stream);
#endif

}  // namespace md::fit
