// Tables of numbers as text, on the CPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace md::number_lines {

// How a row is written: texts[0], the number of the first column, texts[1], ... that of the last, texts.back(). Integers are written
// in full, floats as printf's %.{digits}g of their column does; what is not finite as nan, inf, -inf.
struct Row {
  std::vector<std::string> texts;
  std::vector<int64_t> digits;  // one a column, also for integers
};

// Rows [begin, end) of a table.
std::string lines(const int64_t* table, int64_t begin, int64_t end, const Row& row);
std::string lines(const double* table, int64_t begin, int64_t end, const Row& row);

}  // namespace md::number_lines
