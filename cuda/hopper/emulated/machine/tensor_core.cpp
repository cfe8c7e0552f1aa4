#include "hopper/emulated/machine/tensor_core.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>

#include "hopper/emulated/machine/emu.h"

namespace emu {
namespace {

constexpr uint32_t kNan = 0x7fffffffu;  // what the tensor core writes for every NaN

// Fraction bits kept while adding, and in the result.
template <uint32_t L>
constexpr int kAlignedBits = L == kFusedE4m3 ? 13 : 25;
template <uint32_t L>
constexpr int kResultBits = L == kFusedE4m3 ? 13 : 23;
template <uint32_t L>
constexpr int kMinExponent = L == kFusedE4m3 ? -6 : -126;

// The exponent of a finite FP32 value that is not zero, at least that of the smallest normal one.
int exponent_of(float x, int smallest) {
  return std::max(static_cast<int>(std::bit_cast<uint32_t>(x) >> 23 & 0xff) - 127, smallest);
}

// Of a normal number.
double pow2(int exponent) { return std::bit_cast<double>(static_cast<uint64_t>(exponent + 1023) << 52); }

// Toward zero, in units of 2^quantum, of which there are less than 2^63. FP64 holds every such product.
double cut_to(double x, int quantum) { return static_cast<double>(static_cast<int64_t>(x * pow2(-quantum))); }

// What is cut to zero loses its sign.
float cut(double x, int fraction_bits) {
  if (x == 0) return 0;
  const int exponent = static_cast<int>(std::bit_cast<uint64_t>(x) >> 52 & 0x7ff) - 1023;
  const int quantum = std::max(exponent, -126) - fraction_bits;
  return static_cast<float>(cut_to(x, quantum) * pow2(quantum)) + 0.0f;
}

constexpr int kNoProduct = -1000;  // below every exponent: nothing but zeros

// The definition, one term after the other. The fast path below must give the same bits.
template <uint32_t L>
float fused_sum(float c, const float* a, const float* b) {
  double special = c;
  int largest = c != 0 ? exponent_of(c, -126) : kNoProduct;
  for (uint32_t i = 0; i < L; ++i) {
    special += static_cast<double>(a[i]) * b[i];
    if (a[i] == 0 || b[i] == 0) continue;
    largest = std::max(largest, exponent_of(a[i], kMinExponent<L>) + exponent_of(b[i], kMinExponent<L>));
  }
  if (std::isnan(special)) return std::bit_cast<float>(kNan);
  if (std::isinf(special)) return static_cast<float>(special);

  if (largest == kNoProduct) return 0;
  const int quantum = largest - kAlignedBits<L>;
  double sum = cut_to(c, quantum);
  for (uint32_t i = 0; i < L; ++i) sum += cut_to(static_cast<double>(a[i]) * b[i], quantum);
  return cut(sum * pow2(quantum), kResultBits<L>);
}

// ------------------------------------------------------------------------------------------- the fast path: operands

constexpr int kNoExponent = -8192;     // of a zero: a product with it never is the largest
constexpr int kLeastExponent = -1000;  // below any but that

// One element, ready to be multiplied.
struct Element {
  float value = 0;
  int16_t exponent = kNoExponent;
  bool special = false;  // NaN, Inf, or so large or small that FP32 would not hold its products exactly
  bool nan = false;
};

constexpr int kSafeExponent = 60;

Element element(float value, int smallest_exponent) {
  if (value == 0) return {};
  const int field = static_cast<int>(std::bit_cast<uint32_t>(value) >> 23 & 0xff);  // 255: NaN or Inf
  const int exponent = std::max(field - 127, smallest_exponent);
  if (std::abs(exponent) > kSafeExponent) return {0, kNoExponent, true, std::isnan(value)};
  return {value, static_cast<int16_t>(exponent)};
}

constexpr float e4m3_value(uint8_t code) {
  const uint32_t field = code >> 3 & 15, fraction = code & 7;
  if ((code & 0x7f) == 0x7f) return std::bit_cast<float>(kNan);
  const float normal = std::bit_cast<float>((field + 127 - 7) << 23 | fraction << 20);
  const float magnitude = field == 0 ? static_cast<float>(fraction) * 0x1p-9f : normal;
  return code & 0x80 ? -magnitude : magnitude;
}

constexpr std::array<float, 256> e4m3_values = [] {
  std::array<float, 256> values;
  for (uint32_t code = 0; code < 256; ++code) values[code] = e4m3_value(static_cast<uint8_t>(code));
  return values;
}();

const std::array<Element, 256> e4m3_elements = [] {
  std::array<Element, 256> elements;
  for (uint32_t code = 0; code < 256; ++code) elements[code] = element(e4m3_values[code], kMinExponent<kFusedE4m3>);
  return elements;
}();

const Element& decode(uint8_t code) { return e4m3_elements[code]; }
Element decode(uint16_t code) { return element(bf16_to_f32(code), kMinExponent<kFusedBf16>); }
float to_f32(uint8_t code) { return e4m3_to_f32(code); }
float to_f32(uint16_t code) { return bf16_to_f32(code); }

constexpr uint32_t kBlock = 16;  // columns computed at once

// B transposed, in blocks of columns, so that neighbouring columns are neighbours in memory. Columns past the tile are
// zeros.
template <uint32_t L>
struct Columns {
  alignas(64) float value[kMaxColumns / kBlock][L][kBlock];
  alignas(64) int16_t exponent[kMaxColumns / kBlock][L][kBlock];
  bool special[kMaxColumns];
  bool nan[kMaxColumns];
  bool any_special;
};

template <uint32_t L>
struct Row {
  float value[L];
  int16_t exponent[L];
  bool special;
  bool nan;
};

template <uint32_t L, class Code>
void decode_columns(Columns<L>& columns, const Code (*b)[L], uint32_t count, uint32_t padded) {
  columns.any_special = false;
  for (uint32_t j = 0; j < padded; ++j) {
    columns.special[j] = columns.nan[j] = false;
    for (uint32_t k = 0; k < L; ++k) {
      const Element e = j < count ? Element(decode(b[j][k])) : Element{};
      columns.value[j / kBlock][k][j % kBlock] = e.value;
      columns.exponent[j / kBlock][k][j % kBlock] = e.exponent;
      columns.special[j] |= e.special;
      columns.nan[j] |= e.nan;
    }
    columns.any_special |= columns.special[j];
  }
}

template <uint32_t L, class Code>
void decode_row(Row<L>& row, const Code (&a)[L]) {
  row.special = row.nan = false;
  for (uint32_t k = 0; k < L; ++k) {
    const Element e = decode(a[k]);
    row.value[k] = e.value;
    row.exponent[k] = e.exponent;
    row.special |= e.special;
    row.nan |= e.nan;
  }
}

// ------------------------------------------------------------------------------------------- the fast path: sixteen
// sums

constexpr uint32_t kLanes = 8;
constexpr int kSafeSum = 100;  // exponents for which 2^(E - F) and its inverse are normal FP32 numbers

using Float8 = float __attribute__((vector_size(32)));
using Int8 = int32_t __attribute__((vector_size(32)));
using Short8 = int16_t __attribute__((vector_size(16)));
using Short16 = int16_t __attribute__((vector_size(32)));

template <class Vector, class T>
[[gnu::always_inline]] inline void load(Vector& v, const T* p) {
  std::memcpy(&v, p, sizeof v);
}

// Cuts integer sums, in units of 2^(E - F), to the result format. `c` is the accumulator's cut share.
template <uint32_t L>
[[gnu::always_inline]] inline void round_sums(Float8& out, const Int8& products, const Int8& c, const Int8& exponent) {
  if constexpr (L == kFusedE4m3) {
    // 33 terms below 2^15: FP32 holds the sum exactly, and clearing its low 10 fraction bits leaves 13.
    const Float8 sum = __builtin_convertvector(products + c, Float8);
    const Int8 unit = (exponent - kAlignedBits<L> + 127) << 23;
    out = (Float8)((Int8)sum & ~0x3ff) * (Float8)unit;
  } else {
    // Sums reach 2^32, so they pass through FP64, whose fraction has 29 bits more than FP32's.
    for (uint32_t j = 0; j < kLanes; ++j) {
      const double sum = static_cast<double>(products[j]) + c[j];
      const uint64_t cut_bits = std::bit_cast<uint64_t>(sum) & ~((uint64_t{1} << 29) - 1);
      const uint64_t unit = static_cast<uint64_t>(exponent[j] - kAlignedBits<L> + 1023) << 52;
      out[j] = static_cast<float>(std::bit_cast<double>(cut_bits) * std::bit_cast<double>(unit));
    }
  }
}

// Eight fused sums. `exponent` holds the largest product exponents. Lanes that need the slow path are set in `slow`.
template <uint32_t L>
[[gnu::always_inline]] inline void sum_eight(float* d, const Row<L>& row, const float* b, Int8& exponent, Int8& slow) {
  Float8 c;
  load(c, d);
  const Int8 field = ((Int8)c >> 23) & 0xff;
  const Int8 c_exponent = ((Int8)c & 0x7fffffff) == 0 ? Int8{} + kNoExponent : (field > 0 ? field : Int8{} + 1) - 127;
  exponent = exponent > c_exponent ? exponent : c_exponent;
  slow = (exponent > kSafeSum) | ((exponent < -kSafeSum) & (exponent > kLeastExponent));
  exponent = exponent < -kSafeSum ? Int8{} - kSafeSum : exponent;
  exponent = exponent > kSafeSum ? Int8{} + kSafeSum : exponent;

  const Float8 per_unit = (Float8)((kAlignedBits<L> - exponent + 127) << 23);
  Int8 sum = {};
#pragma GCC unroll 4
  for (uint32_t k = 0; k < L; ++k) {
    Float8 b_k;
    load(b_k, b + k * kBlock);
    sum += __builtin_convertvector(row.value[k] * b_k * per_unit, Int8);  // the conversion cuts toward zero
  }
  const Float8 c_units = slow ? Float8{} : c * per_unit;
  Float8 result;
  round_sums<L>(result, sum, __builtin_convertvector(c_units, Int8), exponent);
  result = slow ? c : result;
  std::memcpy(d, &result, sizeof result);
}

// The largest exponents among the products of sixteen sums.
template <uint32_t L>
[[gnu::always_inline]] inline void largest_exponents(Short16& out, const Row<L>& row,
                                                     const int16_t (&columns)[L][kBlock]) {
  Short16 largest = Short16{} + static_cast<int16_t>(kNoExponent);
#pragma GCC unroll 4
  for (uint32_t k = 0; k < L; ++k) {
    Short16 exponent;
    load(exponent, columns[k]);
    exponent += row.exponent[k];
    largest = exponent > largest ? exponent : largest;
  }
  out = largest;
}

// Sixteen fused sums.
template <uint32_t L>
[[gnu::always_inline]] inline void sum_block(float* d, const Row<L>& row, const Columns<L>& columns, uint32_t block,
                                             Int8 (&slow)[kBlock / kLanes]) {
  Short16 largest;
  largest_exponents<L>(largest, row, columns.exponent[block]);
  Short8 halves[kBlock / kLanes];
  std::memcpy(halves, &largest, sizeof halves);
  for (uint32_t half = 0; half < kBlock / kLanes; ++half) {
    Int8 exponent = __builtin_convertvector(halves[half], Int8);
    const uint32_t column = half * kLanes;
    sum_eight<L>(d + column, row, columns.value[block][0] + column, exponent, slow[half]);
  }
}

// All columns of one row, those in need of the slow path left as they are and marked in `slow`. Returns whether there
// are any.
template <uint32_t L>
[[gnu::always_inline]] inline bool sum_row_inline(float* d, const Row<L>& row, const Columns<L>& columns,
                                                  uint32_t padded, int32_t* slow) {
  Int8 any = {};
  for (uint32_t column = 0; column < padded; column += kBlock) {
    Int8 slow_block[kBlock / kLanes];
    sum_block<L>(d + column, row, columns, column / kBlock, slow_block);
    for (const Int8& half : slow_block) any |= half;
    std::memcpy(slow + column, slow_block, sizeof slow_block);
  }
  int32_t any_lane = 0;
  for (uint32_t j = 0; j < kLanes; ++j) any_lane |= any[j];
  return any_lane != 0;
}

template <uint32_t L>
bool sum_row_baseline(float* d, const Row<L>& row, const Columns<L>& columns, uint32_t padded, int32_t* slow) {
  return sum_row_inline<L>(d, row, columns, padded, slow);
}

#if defined(__x86_64__) && defined(__GNUC__)
template <uint32_t L>
__attribute__((target("avx2"))) bool sum_row_avx2(float* d, const Row<L>& row, const Columns<L>& columns,
                                                  uint32_t padded, int32_t* slow) {
  return sum_row_inline<L>(d, row, columns, padded, slow);
}
template <uint32_t L>
auto* choose_sum_row() {
  return __builtin_cpu_supports("avx2") ? &sum_row_avx2<L> : &sum_row_baseline<L>;
}
#else
template <uint32_t L>
auto* choose_sum_row() {
  return &sum_row_baseline<L>;
}
#endif

template <uint32_t L, class Code>
float slow_sum(float c, const Code (&a)[L], const Code (&b)[L]) {
  float a_values[L], b_values[L];
  for (uint32_t k = 0; k < L; ++k) a_values[k] = to_f32(a[k]), b_values[k] = to_f32(b[k]);
  return fused_sum<L>(c, a_values, b_values);
}

template <uint32_t L, class Code>
void multiply(float* d, uint32_t columns, const Code (*a)[L], const Code (*b)[L], bool keep) {
  static const auto sum_row = choose_sum_row<L>();
  const uint32_t padded = (columns + kBlock - 1) / kBlock * kBlock;
  Columns<L> operand_b;
  decode_columns<L, Code>(operand_b, b, columns, padded);
  for (uint32_t r = 0; r < kTileRows; ++r) {
    float* d_row = d + r * columns;
    Row<L> operand_a;
    decode_row<L, Code>(operand_a, a[r]);
    if (operand_a.nan) {
      std::fill_n(d_row, columns, std::bit_cast<float>(kNan));
      continue;
    }
    float out[kMaxColumns] = {};
    if (keep) std::copy_n(d_row, columns, out);
    int32_t slow[kMaxColumns];
    const bool any_slow = sum_row(out, operand_a, operand_b, padded, slow);
    if (any_slow || operand_a.special || operand_b.any_special) {
      for (uint32_t j = 0; j < columns; ++j) {
        if (!slow[j] && !operand_a.special && !operand_b.special[j]) continue;
        out[j] = operand_b.nan[j] ? std::bit_cast<float>(kNan)
                                  : slow_sum<L, Code>(keep ? d_row[j] : 0.0f, a[r], b[j]);
      }
    }
    std::copy_n(out, columns, d_row);
  }
}

}  // namespace

void multiply_e4m3(float* d, uint32_t columns, const uint8_t (*a)[kFusedE4m3], const uint8_t (*b)[kFusedE4m3],
                   bool keep) {
  multiply<kFusedE4m3, uint8_t>(d, columns, a, b, keep);
}

void multiply_bf16(float* d, uint32_t columns, const uint16_t (*a)[kFusedBf16], const uint16_t (*b)[kFusedBf16],
                   bool keep) {
  multiply<kFusedBf16, uint16_t>(d, columns, a, b, keep);
}

float e4m3_to_f32(uint8_t code) { return e4m3_values[code]; }

float bf16_to_f32(uint16_t code) { return std::bit_cast<float>(static_cast<uint32_t>(code) << 16); }

uint8_t f32_to_e4m3(float x) {
  const uint8_t sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return 0x7f;
  const float magnitude = std::min(std::fabs(x), 448.0f);
  if (magnitude < 0x1p-10f) return sign;
  const int exponent = std::max(std::ilogb(magnitude), -6);
  // In units of the last place; nearbyint rounds ties to even. A carry into the next binade is a carry in the code.
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
  return static_cast<uint8_t>(sign | ((exponent + 6) * 8 + units));
}

uint16_t f32_to_bf16(float x) {
  if (std::isnan(x)) return 0x7fff;
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float flush(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

}  // namespace emu

float emu_fused_dot_e4m3(float c, const uint8_t* a, const uint8_t* b) {
  float a_values[emu::kFusedE4m3], b_values[emu::kFusedE4m3];
  for (uint32_t k = 0; k < emu::kFusedE4m3; ++k) {
    a_values[k] = emu::e4m3_to_f32(a[k]);
    b_values[k] = emu::e4m3_to_f32(b[k]);
  }
  return emu::fused_sum<emu::kFusedE4m3>(c, a_values, b_values);
}

float emu_fused_dot_bf16(float c, const uint16_t* a, const uint16_t* b) {
  float a_values[emu::kFusedBf16], b_values[emu::kFusedBf16];
  for (uint32_t k = 0; k < emu::kFusedBf16; ++k) {
    a_values[k] = emu::bf16_to_f32(a[k]);
    b_values[k] = emu::bf16_to_f32(b[k]);
  }
  return emu::fused_sum<emu::kFusedBf16>(c, a_values, b_values);
}
