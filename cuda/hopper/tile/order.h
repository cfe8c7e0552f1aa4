// The order in which a persistent grid visits the tiles of D.
#pragma once
#include <cstdint>

struct TileCoord {
  uint32_t m, n;  // in tiles
};

// Tiles are walked in bands of kBand tiles along M, and inside a band column by column: the tiles that run at the same
// time form a near-square patch of D, whose rows of A and columns of B stay in L2.
constexpr uint32_t kBand = 16;

// The `linear`-th tile of an m_tiles x n_tiles grid. Every tile is visited once.
constexpr TileCoord tile_coord(uint32_t linear, uint32_t m_tiles, uint32_t n_tiles) {
  const uint32_t band_tiles = kBand * n_tiles;
  const uint32_t band = linear / band_tiles;
  const uint32_t first = band * kBand;
  const uint32_t height = m_tiles - first < kBand ? m_tiles - first : kBand;
  const uint32_t within = linear - band * band_tiles;
  return {first + within % height, within / height};
}

// Number of blocks of `size` that cover `n`.
constexpr uint32_t ceil_div(uint32_t n, uint32_t size) { return n / size + (n % size != 0); }
