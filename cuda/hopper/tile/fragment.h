// Where the elements of a wgmma accumulator live. PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk32".
#pragma once
#include <cstdint>

// Thread t of a warpgroup holds in register 4j + i the element at row `fragment_row(t) + 8 * (i / 2)`, column
// `8 * j + fragment_column(t) + i % 2` of the 64 x N tile.
constexpr uint32_t fragment_row(uint32_t thread) { return 16 * (thread / 32) + (thread % 32) / 4; }
constexpr uint32_t fragment_column(uint32_t thread) { return 2 * (thread % 4); }

// stmatrix.x4 stores a 16 x 16 tile of a warp (two accumulator columns of 8): lane l gives the address of this row and
// column within it, for the register order (j, rows 0-7), (j, rows 8-15), (j + 1, rows 0-7), (j + 1, rows 8-15).
constexpr uint32_t stmatrix_row(uint32_t lane) { return lane % 16; }
constexpr uint32_t stmatrix_column(uint32_t lane) { return 8 * (lane / 16); }
