#include "engine/forward/kept_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <unordered_map>

namespace weighbridge::engine {
namespace {

// Smaller blocks are malloc's, which keeps them by itself. Not more than `kMost` is kept, nor than
// was in use at once: a small model takes no large memory. Where too little is kept, a layer's
// tensors drop what the next ones take.
constexpr size_t kLeast = size_t{128} << 10, kMost = size_t{512} << 20;
constexpr size_t kAlignment = 64, kPage = 4096, kHugePage = size_t{2} << 20;

size_t RoundedUp(size_t size, size_t to) { return (size + to - 1) / to * to; }

// Large blocks begin on a page; a small one does so by chance.
bool MayBeLarge(const void* block) { return reinterpret_cast<uintptr_t>(block) % kPage == 0; }

class KeptMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t n) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (n == 0) return {nullptr, nullptr, &Free, cpu};
    void* block = n < kLeast ? std::aligned_alloc(kAlignment, RoundedUp(n, kAlignment)) : Large(n);
    TORCH_CHECK(block != nullptr, "not enough memory for a tensor of ", n, " bytes");
    return {block, block, &Free, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Free; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }

  // Never destroyed: tensors of other threads may end after it.
  static KeptMemory& Instance() {
    static auto* const kInstance = new KeptMemory;
    return *kInstance;
  }

 private:
  struct Kept {
    void* block;
    uint64_t age;
  };

  static void Free(void* block) {
    if (!MayBeLarge(block) || !Instance().Keep(block)) std::free(block);
  }

  // nullptr: there is no memory.
  void* Large(size_t n) {
    const size_t size = RoundedUp(n, n < kHugePage ? kPage : kHugePage);
    const std::lock_guard lock(mutex_);
    void* block = Take(size);
    if (block == nullptr) block = Fresh(size);
    if (block == nullptr && kept_bytes_ > 0) {
      Drop(0);
      block = Fresh(size);
    }
    if (block == nullptr) return nullptr;
    used_bytes_ += size;
    most_used_ = std::max(most_used_, used_bytes_);
    return block;
  }

  void* Fresh(size_t size) {
    const bool huge = size >= kHugePage;
    void* block = std::aligned_alloc(huge ? kHugePage : kPage, size);
    if (block == nullptr) return nullptr;
    // Advice: where there are no huge pages, the small ones do.
    if (huge) madvise(block, size, MADV_HUGEPAGE);
    sizes_[block] = size;
    return block;
  }

  // The youngest of that size, the likeliest to be in a cache.
  void* Take(size_t size) {
    const auto found = kept_.find(size);
    if (found == kept_.end()) return nullptr;
    void* block = found->second.back().block;
    found->second.pop_back();
    if (found->second.empty()) kept_.erase(found);
    kept_bytes_ -= size;
    return block;
  }

  // False where the block is not a large one.
  bool Keep(void* block) {
    const std::lock_guard lock(mutex_);
    const auto it = sizes_.find(block);
    if (it == sizes_.end()) return false;
    const size_t size = it->second;
    kept_[size].push_back({block, age_++});
    kept_bytes_ += size;
    used_bytes_ -= size;
    Drop(std::min(kMost, most_used_));
    return true;
  }

  // Gives the oldest blocks back until no more than `most` bytes are kept.
  void Drop(size_t most) {
    while (kept_bytes_ > most) {
      const auto oldest = std::min_element(kept_.begin(), kept_.end(), [](auto& a, auto& b) {
        return a.second.front().age < b.second.front().age;
      });
      void* block = oldest->second.front().block;
      kept_bytes_ -= oldest->first;
      oldest->second.pop_front();
      if (oldest->second.empty()) kept_.erase(oldest);
      sizes_.erase(block);
      std::free(block);
    }
  }

  std::mutex mutex_;
  std::unordered_map<void*, size_t> sizes_;  // of large blocks, in use and kept
  std::map<size_t, std::deque<Kept>> kept_;  // by size, the oldest first
  size_t kept_bytes_ = 0, used_bytes_ = 0, most_used_ = 0;
  uint64_t age_ = 0;
};

}  // namespace

void KeepMemoryOfTensors() {
  [[maybe_unused]] static const bool kOnce = [] {
    c10::SetCPUAllocator(&KeptMemory::Instance());
    return true;
  }();
}

}  // namespace weighbridge::engine
