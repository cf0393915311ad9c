#include "number_lines.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace md::number_lines {

namespace {

constexpr int64_t kRoom = 24;  // characters of the longest int64, or of what a float has beside its digits: sign, point, zeros, exponent

// Writes at `out`, up to `end`; returns the place after it.
char* write(char* out, char* end, int64_t value, int) { return std::to_chars(out, end, value).ptr; }

char* write(char* out, char* end, double value, int digits) {
  if (std::isnan(value)) value = std::fabs(value);  // the sign of what is no number says nothing
  return std::to_chars(out, end, value, std::chars_format::general, digits).ptr;
}

template <typename Number>
std::string lines_of(const Number* table, int64_t begin, int64_t end, const Row& row) {
  const auto columns = static_cast<int64_t>(row.digits.size());
  int64_t longest = std::accumulate(row.digits.begin(), row.digits.end(), columns * kRoom);
  for (const std::string& text : row.texts) longest += static_cast<int64_t>(text.size());
  std::string result(longest * (end - begin), '\0');
  char *out = result.data(), *const limit = out + result.size();
  const auto add = [&](const std::string& text) { out = std::copy(text.begin(), text.end(), out); };
  for (int64_t k = begin; k < end; ++k) {
    add(row.texts[0]);
    for (int64_t column = 0; column < columns; ++column) {
      out = write(out, limit, table[k * columns + column], static_cast<int>(row.digits[column]));
      add(row.texts[column + 1]);
    }
  }
  result.resize(out - result.data());
  return result;
}

}  // namespace

std::string lines(const int64_t* table, int64_t begin, int64_t end, const Row& row) {
  return lines_of(table, begin, end, row);
}

std::string lines(const double* table, int64_t begin, int64_t end, const Row& row) {
  return lines_of(table, begin, end, row);
}

}  // namespace md::number_lines
