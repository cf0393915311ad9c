// Texture look-up: schemas, checks, allocation, dispatch. The Python face is microdreamer/kernels/texture.py.
#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <tuple>

#include <ATen/ops/clone.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "checks.h"
#include "texture.h"

namespace md::texture {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

Pyramid checked_pyramid(int64_t height, int64_t width, int64_t levels, int64_t floats) {
  TORCH_CHECK_VALUE(height >= 1 && width >= 1 && height <= kMaxSide && width <= kMaxSide, "texture of ", height, "x", width,
                    ": expected sides of 1 to ", kMaxSide, " texels");
  const int most = std::bit_width(static_cast<unsigned>(std::max(height, width)));
  TORCH_CHECK_VALUE(levels >= 1 && levels <= most, "levels: expected 1 to ", most, " for a texture of ", height, "x", width, ", got ",
                    levels);
  return make_pyramid(static_cast<int>(height), static_cast<int>(width), static_cast<int>(levels), static_cast<int>(floats));
}

#ifdef MD_WITH_CUDA
at::Tensor workspace(size_t bytes, const at::Tensor& like) {
  return at::empty({static_cast<int64_t>(bytes)}, like.options().dtype(at::kByte));
}
#endif

// ---- Pyramids ----

at::Tensor mips(const at::Tensor& tex, int64_t levels) {
  check_tensor(tex, "tex", at::kFloat, tex.device());
  check_shape(tex, "tex", {-1, -1, -1, -1});
  const int64_t channels = tex.size(3);
  TORCH_CHECK_VALUE(channels >= 1, "tex: expected at least 1 channel, got ", tex.sizes());
  const Pyramid p = checked_pyramid(tex.size(1), tex.size(2), levels, texel_floats(channels));
  const int textures = static_cast<int>(tex.size(0));
  const at::Tensor texels = at::empty({textures, p.first[p.levels], p.floats}, tex.options());
  const float* from = tex.const_data_ptr<float>();
  float* to = texels.mutable_data_ptr<float>();
  if (tex.is_cpu()) {
    build_mips_cpu(from, textures, static_cast<int>(channels), p, to);
  }
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(tex.device());
    C10_CUDA_CHECK(build_mips_cuda(from, textures, static_cast<int>(channels), p, to, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return texels;
}

at::Tensor mips_backward(const at::Tensor& v_texels, int64_t height, int64_t width, int64_t channels, int64_t levels) {
  const Pyramid p = checked_pyramid(height, width, levels, texel_floats(channels));
  check_tensor(v_texels, "v_texels", at::kFloat, v_texels.device());
  check_shape(v_texels, "v_texels", {-1, p.first[p.levels], p.floats});
  const int textures = static_cast<int>(v_texels.size(0));
  const at::Tensor v_tex = at::empty({textures, height, width, channels}, v_texels.options());
  const float* from = v_texels.const_data_ptr<float>();
  float* to = v_tex.mutable_data_ptr<float>();
  if (v_texels.is_cpu()) {
    build_mips_backward_cpu(from, textures, static_cast<int>(channels), p, to);
  }
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(v_texels.device());
    const at::Tensor scratch = workspace(build_mips_backward_workspace_bytes(textures, p), v_texels);
    C10_CUDA_CHECK(build_mips_backward_cuda(from, textures, static_cast<int>(channels), p, to, scratch.mutable_data_ptr(),
                                            c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return v_tex;
}

// ---- Samples ----

// Pixels are read 8 and 16 bytes at once; a tensor that begins in the middle of another's storage may not lie on such a multiple.
at::Tensor aligned(const at::Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % alignof(Derivatives) == 0 ? tensor : tensor.clone();
}

OptionalTensor aligned(const OptionalTensor& tensor) { return tensor ? OptionalTensor(aligned(*tensor)) : tensor; }

Inputs checked_inputs(const at::Tensor& texels, const at::Tensor& uv, const OptionalTensor& uv_da, const OptionalTensor& mask,
                      int64_t height, int64_t width, int64_t channels, int64_t levels, int64_t filter, bool wrap) {
  const at::Device device = uv.device();
  check_tensor(uv, "uv", at::kFloat, device);
  check_shape(uv, "uv", {-1, -1, -1, 2});
  const int64_t pictures = uv.size(0);
  check_tensor(texels, "texels", at::kFloat, device);
  TORCH_CHECK_VALUE(texels.dim() == 3 && texels.size(2) >= channels && channels >= 1, "texels: expected [B,T,S] with S at least the ",
                    channels, " channels, got ", texels.sizes());
  Inputs in{};
  in.pyramid = checked_pyramid(height, width, levels, texels.size(2));
  const Pyramid& p = in.pyramid;
  TORCH_CHECK_VALUE(texels.size(1) >= p.first[p.levels], "texels: expected at least ", p.first[p.levels], " texels for ", levels,
                    " levels of ", height, "x", width, ", got ", texels.sizes());
  TORCH_CHECK_VALUE(texels.size(0) == 1 || texels.size(0) == pictures, "texels: expected 1 texture or one for each of the ", pictures,
                    " pictures of uv, got ", texels.size(0));
  TORCH_CHECK_VALUE(filter >= 0 && filter <= 2, "filter: expected 0 (nearest), 1 (linear) or 2 (mipmapped), got ", filter);
  in.filter = static_cast<Filter>(filter);
  TORCH_CHECK_VALUE((in.filter == Filter::kLinearMipmapLinear) == uv_da.has_value(),
                    "uv_da: expected with the mipmapped filter, and only there");
  if (uv_da) {
    check_tensor(*uv_da, "uv_da", at::kFloat, device);
    check_shape(*uv_da, "uv_da", {pictures, uv.size(1), uv.size(2), 4});
    in.uv_da = reinterpret_cast<const Derivatives*>(uv_da->const_data_ptr<float>());
  }
  if (mask) {
    check_tensor(*mask, "mask", at::kBool, device);
    check_shape(*mask, "mask", {pictures, uv.size(1), uv.size(2)});
    in.mask = mask->const_data_ptr<bool>();
  }
  constexpr int64_t kMost = int64_t{1} << 30;
  TORCH_CHECK_VALUE(uv.size(1) <= kMaxSide && uv.size(2) <= kMaxSide && pictures * uv.size(1) * uv.size(2) <= kMost,
                    "uv: expected at most ", kMost, " pixels and ", kMaxSide, " a side, got ", uv.sizes());
  in.texels = texels.const_data_ptr<float>();
  in.uv = reinterpret_cast<const Coordinates*>(uv.const_data_ptr<float>());
  in.stride = texels.size(1) * texels.size(2);
  in.textures = static_cast<int>(texels.size(0));
  in.pictures = static_cast<int>(pictures);
  in.height = static_cast<int>(uv.size(1));
  in.width = static_cast<int>(uv.size(2));
  in.channels = static_cast<int>(channels);
  in.wrap = wrap;
  return in;
}

at::Tensor sample(const at::Tensor& texels, const at::Tensor& any_uv, const OptionalTensor& any_uv_da, const OptionalTensor& mask,
                  int64_t height, int64_t width, int64_t channels, int64_t levels, int64_t filter, bool wrap, bool /*deterministic*/) {
  const at::Tensor uv = aligned(any_uv);
  const OptionalTensor uv_da = aligned(any_uv_da);
  const Inputs in = checked_inputs(texels, uv, uv_da, mask, height, width, channels, levels, filter, wrap);
  const at::Tensor out = at::empty({in.pictures, in.height, in.width, in.channels}, uv.options());
  if (uv.is_cpu()) {
    sample_cpu(in, out.mutable_data_ptr<float>());
  }
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(uv.device());
    C10_CUDA_CHECK(sample_cuda(in, out.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> sample_backward(const at::Tensor& v_out, const at::Tensor& texels, const at::Tensor& any_uv,
                                                               const OptionalTensor& any_uv_da, const OptionalTensor& mask, int64_t height,
                                                               int64_t width, int64_t channels, int64_t levels, int64_t filter, bool wrap,
                                                               [[maybe_unused]] bool deterministic, std::array<bool, 3> wanted) {
  const at::Tensor uv = aligned(any_uv);
  const OptionalTensor uv_da = aligned(any_uv_da);
  const Inputs in = checked_inputs(texels, uv, uv_da, mask, height, width, channels, levels, filter, wrap);
  check_tensor(v_out, "v_out", at::kFloat, uv.device());
  check_shape(v_out, "v_out", {in.pictures, in.height, in.width, in.channels});
  TORCH_CHECK_VALUE(uv_da || !wanted[2], "wanted: no gradient of uv_da without uv_da");
  const auto like = [&](const at::Tensor& tensor, bool want) { return want ? at::empty_like(tensor) : at::empty({0}, uv.options()); };
  const at::Tensor v_texels = like(texels, wanted[0]), v_uv = like(uv, wanted[1]), v_uv_da = like(uv_da ? *uv_da : uv, wanted[2]);
  const auto pointer = [](const at::Tensor& tensor, bool want) { return want ? tensor.mutable_data_ptr<float>() : nullptr; };
  const Gradients out{pointer(v_texels, wanted[0]), reinterpret_cast<Coordinates*>(pointer(v_uv, wanted[1])),
                      reinterpret_cast<Derivatives*>(pointer(v_uv_da, wanted[2]))};
  if (uv.is_cpu()) {
    sample_backward_cpu(in, v_out.const_data_ptr<float>(), out);
  }
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(uv.device());
    const at::Tensor scratch = workspace(sample_backward_workspace_bytes(in, out, deterministic), uv);
    C10_CUDA_CHECK(sample_backward_cuda(in, v_out.const_data_ptr<float>(), out, deterministic, scratch.mutable_data_ptr(),
                                        c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {v_texels, v_uv, v_uv_da};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  // A pyramid is [B, texels of all levels, floats of a texel]; a texture [B,H,W,C] seen as [B,H*W,C] is one of a single level.
  m.def("texture_mips(Tensor tex, int levels) -> Tensor");
  m.def("texture_mips_bwd(Tensor v_texels, int height, int width, int channels, int levels) -> Tensor");
  m.def(
      "texture_sample(Tensor texels, Tensor uv, Tensor? uv_da, Tensor? mask, int height, int width, int channels, int levels, int filter, "
      "bool wrap, bool deterministic) -> Tensor");
  // `wanted`: which of the three gradients to compute; the others come back empty.
  m.def(
      "texture_sample_bwd(Tensor v_out, Tensor texels, Tensor uv, Tensor? uv_da, Tensor? mask, int height, int width, int channels, "
      "int levels, int filter, bool wrap, bool deterministic, bool[3] wanted) -> (Tensor v_texels, Tensor v_uv, Tensor v_uv_da)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("texture_mips", &mips);
  m.impl("texture_mips_bwd", &mips_backward);
  m.impl("texture_sample", &sample);
  m.impl("texture_sample_bwd", &sample_backward);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("texture_mips", &mips);
  m.impl("texture_mips_bwd", &mips_backward);
  m.impl("texture_sample", &sample);
  m.impl("texture_sample_bwd", &sample_backward);
}
#endif

}  // namespace md::texture
