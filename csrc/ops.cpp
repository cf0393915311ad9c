// The op library `microdreamer`. Each family declares its schemas and kernels in its own ops_<family>.cpp
// through TORCH_LIBRARY_FRAGMENT; this file only says what was built.
#include <torch/library.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

int64_t built_with_cuda() {
#ifdef MD_WITH_CUDA
  return 1;
#else
  return 0;
#endif
}

#ifdef __GLIBC__
// PyTorch's CPU tensors come from malloc, and glibc hands large freed blocks back to the system at once: each operation then
// pays for fresh pages again, a tenth of the micro prior's time. Keep them instead.
[[maybe_unused]] const bool keeps_freed_pages = mallopt(M_MMAP_THRESHOLD, 32 << 20) && mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif

}  // namespace

TORCH_LIBRARY(microdreamer, m) {
  m.def("built_with_cuda() -> int", &built_with_cuda);
}
