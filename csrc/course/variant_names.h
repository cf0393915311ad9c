// What the course's ops share: a step or a mistake by its name.
#pragma once

#include <c10/util/Exception.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace md::course {

template <typename Variant, size_t kCount>
Variant variant_of(const std::pair<const char*, Variant> (&variants)[kCount], std::string_view name) {
  for (const auto& [known, variant] : variants) {
    if (name == known) return variant;
  }
  std::string expected;
  for (const auto& [known, variant] : variants) expected += std::string(expected.empty() ? "" : ", ") + known;
  TORCH_CHECK_VALUE(false, "variant: expected one of ", expected, ", got ", name);
}

}  // namespace md::course
