// The op library `microdreamer`. Each family declares its schemas and kernels in its own ops_<family>.cpp
// through TORCH_LIBRARY_FRAGMENT; this file only says what was built.
#include <torch/library.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

bool built_with_cuda() {
#ifdef MD_WITH_CUDA
  return true;
#else
  return false;
#endif
}

// PyTorch's CPU tensors come from malloc, and glibc hands large freed blocks back to the system at once: each operation then
// pays for fresh pages again, a tenth of the micro prior's time. From here on the process keeps them. False where there is no glibc.
bool keep_freed_memory() {
#ifdef __GLIBC__
  return mallopt(M_MMAP_THRESHOLD, 32 << 20) && mallopt(M_TRIM_THRESHOLD, 1 << 30);
#else
  return false;
#endif
}

}  // namespace

TORCH_LIBRARY(microdreamer, m) {
  m.def("built_with_cuda() -> bool", &built_with_cuda);
  m.def("keep_freed_memory() -> bool", &keep_freed_memory);
}
