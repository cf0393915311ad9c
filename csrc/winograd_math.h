// Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016, arXiv 1509.09308, section 4.1): a 3x3 convolution of a 4x4 patch gives
// 2x2 pixels by 16 products for 36. Products of the same place in all tiles form a matrix product over the channels.
#pragma once

#include "common.h"

namespace md::winograd {

// The places of a transformed patch along one axis. Where a picture is enlarged to twice its size by repeating pixels, a patch reads
// a, b, b, c along each axis, so that the third place is b - b = 0 and is left out: 9 products for 36.
constexpr int kPlaces = 4, kPlacesEnlarged = 3;
constexpr MD_HOST_DEVICE int place(int sides, int i) { return sides == kPlaces || i < 2 ? i : 3; }

// v = B^T d B of a patch d.
MD_HOST_DEVICE void transform_patch(const float d[4][4], float v[4][4]) {
  float rows[4][4];
  for (int j = 0; j < 4; ++j) {
    rows[0][j] = d[0][j] - d[2][j];
    rows[1][j] = d[1][j] + d[2][j];
    rows[2][j] = d[2][j] - d[1][j];
    rows[3][j] = d[1][j] - d[3][j];
  }
  for (int i = 0; i < 4; ++i) {
    v[i][0] = rows[i][0] - rows[i][2];
    v[i][1] = rows[i][1] + rows[i][2];
    v[i][2] = rows[i][2] - rows[i][1];
    v[i][3] = rows[i][1] - rows[i][3];
  }
}

// y = A^T m A of the products m of a tile, its 2x2 pixels, from y = 0 column after column of m.
MD_HOST_DEVICE void add_products(int column, const float m[4], float y[2][2]) {
  const float sums[2] = {m[0] + m[1] + m[2], m[1] - m[2] - m[3]};
  for (int i = 0; i < 2; ++i) {
    if (column < 3) y[i][0] += sums[i];
    if (column == 1) y[i][1] += sums[i];
    if (column > 1) y[i][1] -= sums[i];
  }
}

}  // namespace md::winograd
