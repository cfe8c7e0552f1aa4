// The C entry points.
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>

#include "hopper/emulated/machine/model.h"
#include "hopper/emulated/machine/trace.h"
#include "hopper/emulated/machine/watchdog.h"

namespace emu {
namespace {

constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kMaxCluster = 8;
constexpr uint32_t kMaxShared = 227 * 1024;

const Kernel* find_kernel(const char* name) {
  for (const Kernel* const* kernel = emu_kernels; *kernel != nullptr; ++kernel) {
    if (name != nullptr && std::strcmp((*kernel)->name, name) == 0) return *kernel;
  }
  return nullptr;
}

// Why the launch cannot be, or an empty text.
Text impossible(const EmuLaunch& launch, const Kernel* kernel) {
  Text why;
  if (kernel == nullptr) return why.add("there is no kernel %s", launch.kernel != nullptr ? launch.kernel : "(null)");
  if (kernel->threads == 0 || kernel->threads > kMaxThreads) {
    return why.add("%s has %u threads per CTA, not 1 to %u", kernel->name, kernel->threads, kMaxThreads);
  }
  if (kernel->threads % kWarp != 0) return why.add("%s has threads that fill no warp", kernel->name);
  if (kernel->cluster == 0 || kernel->cluster > kMaxCluster) {
    return why.add("%s has clusters of %u, not 1 to %u", kernel->name, kernel->cluster, kMaxCluster);
  }
  if (launch.grid == 0 || launch.grid % kernel->cluster != 0) {
    return why.add("a grid of %u is no positive multiple of the cluster of %u", launch.grid, kernel->cluster);
  }
  if (launch.smem_bytes > kMaxShared) {
    return why.add("%u bytes of shared memory, of %u there are", launch.smem_bytes, kMaxShared);
  }
  if (launch.params == nullptr || launch.params_bytes != kernel->params_bytes) {
    return why.add("%llu bytes of parameters, %s takes %llu", static_cast<unsigned long long>(launch.params_bytes),
                   kernel->name, static_cast<unsigned long long>(kernel->params_bytes));
  }
  return why;
}

struct FreeAligned {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t{128}); }
};

void run(const EmuLaunch& launch, const Kernel& kernel, EmuReport& report) {
  const std::unique_ptr<void, FreeAligned> params(::operator new(launch.params_bytes, std::align_val_t{128}));
  std::memcpy(params.get(), launch.params, launch.params_bytes);
  const auto machine = std::make_unique<Machine>(launch, kernel, params.get(), report);
  set_machine(machine.get());
  set_trace(launch.trace != nullptr);
  {
    const Watchdog watchdog(*machine);
    machine->run();
  }
  set_trace(false);
  set_machine(nullptr);
}

}  // namespace
}  // namespace emu

void emu_launch(const EmuLaunch* launch, EmuReport* report) {
  *report = EmuReport{};
  const emu::Kernel* kernel = emu::find_kernel(launch->kernel);
  const emu::Text why = emu::impossible(*launch, kernel);
  if (why.c_str()[0] != '\0') {
    report->status = EMU_BAD_LAUNCH;
    std::snprintf(report->message, sizeof report->message, "%s", why.c_str());
    return;
  }
  try {
    emu::run(*launch, *kernel, *report);
  } catch (const std::bad_alloc&) {
    report->status = EMU_BAD_LAUNCH;
    std::snprintf(report->message, sizeof report->message, "no memory for the emulated machine");
  }
}

int32_t emu_kernel_info(const char* kernel, EmuKernelInfo* info) {
  const emu::Kernel* found = emu::find_kernel(kernel);
  if (found == nullptr) return 0;
  *info = {found->threads, found->cluster, found->params_bytes};
  return 1;
}
