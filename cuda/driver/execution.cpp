#include "driver/execution.h"

#include <condition_variable>
#include <cstring>
#include <thread>

#include "driver/options.h"
#include "driver/queue.h"
#include "hopper/emulated/machine/emu.h"

namespace driver {
namespace {

// Larger operands are taken to be read only, when it comes to order.
constexpr uint64_t kMostCompared = 64 << 20;
// Written pieces closer than this are one; there are at most so many of an operand.
constexpr uint64_t kGap = 256;
constexpr size_t kMostPieces = 64;

// The emulator keeps the stacks of its fibers per thread, and the caller's thread may be ending: kernels run on one of
// their own, for which the caller waits.
class DeviceThread {
 public:
  static void run(const std::function<void()>& work) {
    static auto* const thread = new DeviceThread();
    std::unique_lock<std::mutex> lock(thread->mutex_);
    thread->work_ = &work;
    thread->wake_.notify_one();
    thread->done_.wait(lock, [&] { return thread->work_ == nullptr; });
  }

 private:
  DeviceThread() {
    std::thread([this] { serve(); }).detach();
  }

  [[noreturn]] void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return work_ != nullptr; });
      (*work_)();
      work_ = nullptr;
      done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void()>* work_ = nullptr;
};

// What an operand held before the kernel, to see what it wrote. Memory of the host is not compared: kernels of several
// streams set bits of the same error word, and may.
struct Before {
  Allocation* allocation;
  std::vector<uint8_t> bytes;
};

std::vector<Before> remember(const std::vector<Allocation*>& operands) {
  std::vector<Before> all;
  for (Allocation* allocation : operands) {
    if (allocation->origin == Allocation::kHost || allocation->bytes > kMostCompared) continue;
    const auto* bytes = reinterpret_cast<const uint8_t*>(allocation->base);
    all.push_back({allocation, std::vector<uint8_t>(bytes, bytes + allocation->bytes)});
  }
  return all;
}

void check_writes(const Before& before) {
  const auto* now = reinterpret_cast<const uint8_t*>(before.allocation->base);
  if (std::memcmp(now, before.bytes.data(), before.bytes.size()) == 0) return;
  std::vector<std::pair<uint64_t, uint64_t>> pieces;
  for (uint64_t i = 0; i < before.bytes.size(); ++i) {
    if (now[i] == before.bytes[i]) continue;
    if (!pieces.empty() && i - pieces.back().second <= kGap)
      pieces.back().second = i + 1;
    else if (pieces.size() == kMostPieces)
      break;
    else
      pieces.emplace_back(i, i + 1);
  }
  const auto [operation, stream] = executing();
  const uint64_t base = before.allocation->base;
  for (const auto& [begin, end] : pieces) {
    check_order(*operation, *stream, stream->executed + 1, {before.allocation, base + begin, base + end, true});
  }
}

Result fail(const KernelLaunch& launch, Result code, const std::string& why) {
  std::string text = why;
  for (const Allocation* allocation : launch.freed) {
    text += "; its parameters point into allocation " + std::to_string(allocation->id) + ", freed by " +
            allocation->freed_by;
  }
  error(executing().operation->thread, launch.function->kernel.name.c_str(), code, "%s", text.c_str());
  return code;
}

}  // namespace

Result execute(const KernelLaunch& launch) {
  if (!launch.function->alive) return fail(launch, CUDA_ERROR_LAUNCH_FAILED, "executed after it was unloaded");
  for (const Allocation* allocation : launch.operands) {
    if (allocation->context == launch.context || allocation->origin == Allocation::kHost) continue;
    return fail(launch, CUDA_ERROR_ILLEGAL_ADDRESS,
                "allocation " + std::to_string(allocation->id) + " is memory of another context");
  }
  if (!options().execute) return CUDA_SUCCESS;
  std::vector<std::string> names;
  for (const Allocation* allocation : launch.operands) names.push_back("allocation " + std::to_string(allocation->id));
  std::vector<EmuRegion> regions;
  for (size_t i = 0; i < names.size(); ++i) {
    const Allocation& allocation = *launch.operands[i];
    regions.push_back({.base = reinterpret_cast<const void*>(allocation.base),
                       .bytes = allocation.bytes,
                       .writable = 1,
                       .name = names[i].c_str(),
                       .host = allocation.origin == Allocation::kHost ? 1u : 0u});
  }
  EmuLaunch run = {};
  run.kernel = launch.function->kernel.name.c_str();
  run.params = launch.parameters.data();
  run.params_bytes = launch.parameters.size();
  run.grid = launch.grid;
  run.smem_bytes = launch.shared_bytes;
  run.regions = regions.data();
  run.region_count = static_cast<uint32_t>(regions.size());
  run.seed = options().seed;
  run.check_state = options().checks;
  run.check_races = options().checks;
  const std::vector<Before> before = remember(launch.operands);
  const auto report = std::make_unique<EmuReport>();
  DeviceThread::run([&] { emu_launch(&run, report.get()); });
  for (const Before& operand : before) check_writes(operand);
  if (report->status == EMU_OK) return CUDA_SUCCESS;
  const bool outside = std::strstr(report->message, "outside every region") != nullptr;
  return fail(launch, outside ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_ERROR_LAUNCH_FAILED, report->message);
}

}  // namespace driver
