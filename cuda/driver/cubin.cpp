// The layout of attributes is documented nowhere; it was read off nvcc's own output (`cuobjdump -elf`).
#include "driver/cubin.h"

#include <elf.h>

#include <cstring>

namespace driver {
namespace {

constexpr uint16_t kMachineCuda = 190;
constexpr uint8_t kAbiOfCuda13 = 8;
// Hopper's sections of shared memory begin with what the system reserves.
constexpr uint64_t kReservedShared = 1024;

// Records of .nv.info: a format, an attribute, two bytes that are a value or the length of what follows.
enum Format : uint8_t { kSized = 4 };
enum Attribute : uint8_t {
  kMaxThreads = 0x05,
  kRequiredThreads = 0x10,
  kFrameSize = 0x11,
  kParameterInfo = 0x17,
  kRegisterCount = 0x2f,
  kClusterSize = 0x3d,
  kParameterInfo2 = 0x45,
};

template <class T>
T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

class Reader {
 public:
  Reader(const uint8_t* image, Cubin& cubin) : image_(image), cubin_(cubin) {}

  std::string read() {
    if (std::memcmp(image_, ELFMAG, SELFMAG) != 0) return "the image is no ELF file";
    const auto header = load<Elf64_Ehdr>(image_);
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != kMachineCuda) return "the image is no cubin";
    cubin_.abi = header.e_ident[EI_ABIVERSION];
    cubin_.architecture = (cubin_.abi >= kAbiOfCuda13 ? header.e_flags >> 8 : header.e_flags) & 0xff;
    for (uint16_t i = 0; i < header.e_shnum; ++i) {
      sections_.push_back(load<Elf64_Shdr>(image_ + header.e_shoff + i * sizeof(Elf64_Shdr)));
    }
    const uint8_t* names = image_ + sections_[header.e_shstrndx].sh_offset;
    for (const Elf64_Shdr& section : sections_)
      names_.push_back(reinterpret_cast<const char*>(names + section.sh_name));
    read_symbols();
    for (size_t i = 0; i < sections_.size(); ++i) read_section(names_[i], sections_[i]);
    return cubin_.kernels.empty() ? "the cubin has no kernels" : "";
  }

 private:
  void read_symbols() {
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type != SHT_SYMTAB) continue;
      const auto* strings = reinterpret_cast<const char*>(image_ + sections_[section.sh_link].sh_offset);
      for (uint64_t i = 0; i < section.sh_size / sizeof(Elf64_Sym); ++i) {
        const auto symbol = load<Elf64_Sym>(image_ + section.sh_offset + i * sizeof(Elf64_Sym));
        symbols_.emplace_back(strings + symbol.st_name);
        const bool kernel = ELF64_ST_BIND(symbol.st_info) == STB_GLOBAL && ELF64_ST_TYPE(symbol.st_info) == STT_FUNC &&
                            symbol.st_shndx != SHN_UNDEF;
        if (kernel) cubin_.kernels[symbols_.back()].name = symbols_.back();
      }
    }
  }

  CubinKernel* kernel(const std::string& name) {
    const auto found = cubin_.kernels.find(name);
    return found != cubin_.kernels.end() ? &found->second : nullptr;
  }

  // The kernel that a section is about: what follows `prefix` in its name.
  CubinKernel* kernel_of(const std::string& section, const std::string& prefix) {
    return section.starts_with(prefix) ? kernel(section.substr(prefix.size())) : nullptr;
  }

  void read_section(const std::string& name, const Elf64_Shdr& section) {
    if (CubinKernel* of = kernel_of(name, ".nv.shared.")) {
      of->static_shared =
          section.sh_size > kReservedShared ? static_cast<uint32_t>(section.sh_size - kReservedShared) : 0;
    }
    CubinKernel* own = kernel_of(name, ".nv.info.");
    if (own == nullptr && name != ".nv.info") return;
    const uint8_t* at = image_ + section.sh_offset;
    const uint8_t* end = at + section.sh_size;
    while (at + 4 <= end) {
      const uint8_t* data = at + 4;
      const auto length = at[0] == kSized ? load<uint16_t>(at + 2) : uint16_t{0};
      if (own != nullptr)
        read_attribute(*own, at[1], data);
      else if (length >= 8)
        read_global(at[1], data);
      at = data + length;
    }
  }

  // In the section about all kernels records begin with the symbol.
  void read_global(uint8_t attribute, const uint8_t* data) {
    if (attribute != kRegisterCount && attribute != kFrameSize) return;
    const auto symbol = load<uint32_t>(data);
    CubinKernel* of = symbol < symbols_.size() ? kernel(symbols_[symbol]) : nullptr;
    if (of != nullptr) (attribute == kRegisterCount ? of->registers : of->local_bytes) = load<uint32_t>(data + 4);
  }

  static void read_attribute(CubinKernel& kernel, uint8_t attribute, const uint8_t* data) {
    const auto triple = [data](int i) { return load<uint32_t>(data + 4 * i); };
    switch (attribute) {
      case kMaxThreads:
        kernel.max_threads = triple(0) * triple(1) * triple(2);
        break;
      case kRequiredThreads:
        for (int i = 0; i < 3; ++i) kernel.required_threads[i] = triple(i);
        break;
      case kClusterSize:
        for (int i = 0; i < 3; ++i) kernel.cluster[i] = triple(i);
        break;
      case kParameterInfo:  // index, ordinal and offset (two bytes each), flags with the size in the 14 high bits
        kernel.parameters[load<uint16_t>(data + 4)] = {load<uint16_t>(data + 6), load<uint32_t>(data + 8) >> 18};
        break;
      case kParameterInfo2:
        kernel.parameters[load<uint16_t>(data + 4)] = {load<uint16_t>(data + 6), load<uint32_t>(data + 8)};
        break;
      default:
        break;
    }
  }

  const uint8_t* image_;
  Cubin& cubin_;
  std::vector<Elf64_Shdr> sections_;
  std::vector<std::string> names_, symbols_;
};

}  // namespace

std::string read_cubin(const void* image, Cubin& cubin) {
  return Reader(static_cast<const uint8_t*>(image), cubin).read();
}

}  // namespace driver
