// Tensor maps: the rules of cuTensorMapEncodeTiled's documentation; the emulator's own encoding.
#include <algorithm>
#include <cstring>

#include "driver/memory.h"
#include "driver/options.h"
#include "hopper/emulated/machine/emu.h"

namespace driver {
namespace {

constexpr uint32_t kMaxRank = 5;
// By CUtensorMapDataType.
constexpr uint64_t kElementBytes[kTensorTypes] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
// By CUtensorMapSwizzle: the most that the inner box may span, without swizzle 256 elements of 8 bytes.
constexpr uint64_t kSwizzles = 4, kSpan[kSwizzles] = {256 * 8, 32, 64, 128};

// The arguments, dimensions fastest first.
struct Tiled {
  int type;
  uint32_t rank;
  uint64_t base;
  const uint64_t* dims;
  const uint64_t* strides;  // bytes, of dimensions 1, 2, ...
  const uint32_t* box;
  const uint32_t* element_strides;
  int interleave, swizzle, promotion, fill;
  uint64_t element() const { return kElementBytes[type]; }
};

Result invalid(Call& call, const char* rule, uint64_t value) {
  return call.fail(CUDA_ERROR_INVALID_VALUE, "%s: 0x%llx", rule, printable(value));
}

Result check_dimensions(Call& call, const Tiled& t) {
  for (uint32_t i = 0; i < t.rank; ++i) {
    if (t.dims[i] == 0 || t.dims[i] > uint64_t{1} << 32)
      return invalid(call, "a dimension must be 1 to 2^32", t.dims[i]);
    if (t.box[i] == 0 || t.box[i] > 256) return invalid(call, "a box must be 1 to 256", t.box[i]);
    const uint32_t stride = planted(Fault::kZeroElementStrides) ? 0 : t.element_strides[i];
    if (stride == 0 || stride > 8) return invalid(call, "an element stride must be 1 to 8", stride);
    if (stride != 1) return call.fail(CUDA_ERROR_NOT_SUPPORTED, "element stride %u is not modelled", stride);
  }
  for (uint32_t i = 0; i + 1 < t.rank; ++i) {
    if (t.strides[i] % 16 != 0) return invalid(call, "a stride must be a multiple of 16 bytes", t.strides[i]);
    if (t.strides[i] >= uint64_t{1} << 40) return invalid(call, "a stride must be less than 2^40", t.strides[i]);
  }
  return CUDA_SUCCESS;
}

Result check(Call& call, const Tiled& t) {
  if (t.type < 0 || t.type >= kTensorTypes) return invalid(call, "no such data type", static_cast<uint64_t>(t.type));
  if (t.rank == 0 || t.rank > kMaxRank) return invalid(call, "the rank must be 1 to 5", t.rank);
  if (t.base == 0 || t.base % 16 != 0) return invalid(call, "the address must be aligned to 16 bytes", t.base);
  if (t.swizzle < 0 || t.swizzle >= static_cast<int>(kSwizzles))
    return invalid(call, "no such swizzle", static_cast<uint64_t>(t.swizzle));
  if (t.promotion < 0 || t.promotion > 3) return invalid(call, "no such promotion", static_cast<uint64_t>(t.promotion));
  if (t.interleave < 0 || t.interleave > 2)
    return invalid(call, "no such interleave", static_cast<uint64_t>(t.interleave));
  if (t.interleave != 0) return call.fail(CUDA_ERROR_NOT_SUPPORTED, "interleave is not modelled");
  if (const Result result = check_dimensions(call, t); result != CUDA_SUCCESS) return result;
  const uint64_t inner = t.box[0] * t.element();
  if (inner % 16 != 0) return invalid(call, "the inner box must be a multiple of 16 bytes", inner);
  if (inner > kSpan[t.swizzle]) return invalid(call, "the inner box must fit the span of the swizzle", inner);
  if (t.fill < 0 || t.fill > 1 || (t.fill == 1 && t.type < kTensorF16)) {
    return invalid(call, "no such fill for this data type", static_cast<uint64_t>(t.fill));
  }
  return CUDA_SUCCESS;
}

// What drivers are known to take, and what cannot be meant.
void note_oddities(const Tiled& t) {
  const uint64_t row = t.dims[0] * t.element();
  for (uint32_t i = 0; i + 1 < t.rank; ++i) {
    if (t.dims[i + 1] > 1 && t.strides[i] < row) {
      note(this_thread(), "rows-overlap",
           "a tensor map: stride 0x%llx of dimension %u is less than a row of 0x%llx bytes", printable(t.strides[i]),
           i + 1, printable(row));
    }
    if (i > 0 && t.dims[i + 1] > 1 && t.dims[i] > 1 && t.strides[i] % t.strides[i - 1] != 0) {
      note(this_thread(), "stride-multiple", "a tensor map: stride 0x%llx of dimension %u is no multiple of 0x%llx",
           printable(t.strides[i]), i + 1, printable(t.strides[i - 1]));
    }
  }
  const Allocation* allocation = find_allocation(t.base);
  if (allocation == nullptr || allocation->freed()) {
    note(this_thread(), "no-memory", "a tensor map of 0x%llx, which is %s", printable(t.base),
         allocation == nullptr ? "in no allocation" : "in an allocation that was freed");
    return;
  }
  uint64_t bytes = row;
  for (uint32_t i = 1; i < t.rank; ++i) {
    const uint64_t last = t.dims[i] - 1 + (planted(Fault::kTensorMapTooLong) && i + 1 == t.rank ? 1 : 0);
    bytes += last * t.strides[i - 1];
  }
  const uint64_t there = allocation->bytes - (t.base - allocation->base);
  if (bytes > there) {
    note(this_thread(), "past-the-end", "a tensor map of %llu bytes of allocation %llu, where there are %llu",
         printable(bytes), printable(allocation->id), printable(there));
  }
}

Result encode(Call& call, void* map, const Tiled& t) {
  EmuTensorMapSpec spec = {};
  spec.base = reinterpret_cast<const void*>(t.base);
  switch (t.type) {
    case kTensorU8:
      spec.element = EMU_U8;
      break;
    case kTensorBf16:
      spec.element = EMU_BF16;
      break;
    case kTensorF32:
      spec.element = EMU_F32;
      break;
    default:
      return call.fail(CUDA_ERROR_NOT_SUPPORTED, "data type %d is not modelled", t.type);
  }
  spec.swizzle = static_cast<uint32_t>(t.swizzle);
  spec.rank = t.rank;
  std::copy_n(t.dims, t.rank, spec.dims);
  std::copy_n(t.box, t.rank, spec.box);
  std::copy_n(t.strides, t.rank - 1, spec.strides);
  TensorMap encoded;  // aligned as the emulator wants it; the caller's need not be
  char message[256] = {};
  if (emu_tensor_map_encode(&spec, &encoded, message, sizeof message) != 0) {
    return call.fail(CUDA_ERROR_NOT_SUPPORTED, "not modelled: %s", message);
  }
  std::memcpy(map, &encoded, sizeof encoded);
  return CUDA_SUCCESS;
}

}  // namespace

DRIVER_API Result cuTensorMapEncodeTiled(void* map, int type, uint32_t rank, void* address, const uint64_t* dims,
                                         const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                                         int interleave, int swizzle, int promotion, int fill) {
  Call call("cuTensorMapEncodeTiled");
  if (call.result != CUDA_SUCCESS) return call.result;
  if (map == nullptr || dims == nullptr || box == nullptr || element_strides == nullptr ||
      (rank > 1 && strides == nullptr)) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "an argument is null");
  }
  if (reinterpret_cast<uint64_t>(map) % 64 != 0) {
    return invalid(call, "the map must be aligned to 64 bytes", reinterpret_cast<uint64_t>(map));
  }
  const uint64_t base = reinterpret_cast<uint64_t>(address) + (planted(Fault::kMisalignedMemory) ? 8 : 0);
  const Tiled tiled = {type, rank, base, dims, strides, box, element_strides, interleave, swizzle, promotion, fill};
  if (const Result result = check(call, tiled); result != CUDA_SUCCESS) return result;
  note_oddities(tiled);
  return encode(call, map, tiled);
}

}  // namespace driver
