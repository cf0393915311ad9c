// The op library `microdreamer`. Each family declares its schemas and kernels in its own ops_<family>.cpp
// through TORCH_LIBRARY_FRAGMENT; this file only says what was built.
#include <torch/library.h>

namespace {

int64_t built_with_cuda() {
#ifdef MD_WITH_CUDA
  return 1;
#else
  return 0;
#endif
}

}  // namespace

TORCH_LIBRARY(microdreamer, m) {
  m.def("built_with_cuda() -> int", &built_with_cuda);
}
