// Tables of numbers as text: schema, checks, threads. The Python face is kernels/number_lines.py.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>

#include "checks.h"
#include "number_lines.h"

namespace md::number_lines {
namespace {

constexpr int64_t kRows = 1024;  // of one piece of work
constexpr int64_t kMostDigits = 17;  // tell every double from its neighbours

// Pieces of the text, in order. They do not depend on the number of threads.
template <typename Number>
std::vector<std::string> pieces(const at::Tensor& table, const Row& row) {
  const Number* numbers = table.const_data_ptr<Number>();
  const int64_t rows = table.size(0);
  std::vector<std::string> found((rows + kRows - 1) / kRows);
  at::parallel_for(0, static_cast<int64_t>(found.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      found[piece] = lines(numbers, piece * kRows, std::min((piece + 1) * kRows, rows), row);
    }
  });
  return found;
}

at::Tensor number_lines(const at::Tensor& table, const std::vector<std::string>& texts, at::IntArrayRef digits) {
  const bool whole = table.scalar_type() == at::kLong;
  check_tensor(table, "table", whole ? at::kLong : at::kDouble, at::kCPU);
  check_shape(table, "table", {-1, static_cast<int64_t>(digits.size())});
  TORCH_CHECK_VALUE(texts.size() == digits.size() + 1, "texts: expected one more than the ", digits.size(), " columns, got ", texts.size());
  for (const int64_t number : digits) {
    TORCH_CHECK_VALUE(number >= 1 && number <= kMostDigits, "digits: expected 1 to ", kMostDigits, ", got ", number);
  }
  const Row row{texts, digits.vec()};
  const std::vector<std::string> found = whole ? pieces<int64_t>(table, row) : pieces<double>(table, row);
  const auto add = [](int64_t sum, const std::string& piece) { return sum + static_cast<int64_t>(piece.size()); };
  const at::Tensor result = at::empty({std::accumulate(found.begin(), found.end(), int64_t{0}, add)}, table.options().dtype(at::kByte));
  auto* out = result.mutable_data_ptr<uint8_t>();
  for (const std::string& piece : found) out = std::copy(piece.begin(), piece.end(), out);
  return result;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) { m.def("number_lines(Tensor table, str[] texts, int[] digits) -> Tensor"); }

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) { m.impl("number_lines", &number_lines); }

}  // namespace md::number_lines
