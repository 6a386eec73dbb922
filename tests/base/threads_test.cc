#include "base/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "base/memory.h"
#include "base/progress.h"

namespace weighbridge {
namespace {

TEST(ParallelFor, CallsEveryPieceExactlyOnce) {
  for (int threads : {-1, 1, 2, 9}) {
    std::vector<std::atomic<int>> calls(1000);
    ParallelFor(calls.size(), threads, [&](size_t i) { ++calls[i]; });
    for (const auto& n : calls) ASSERT_EQ(n, 1) << threads;
  }
}

TEST(ParallelFor, DoesNothingForNoPieces) {
  ParallelFor(0, 4, [](size_t) { FAIL(); });
  EXPECT_GE(DefaultThreads(), 1);
}

TEST(PeakAnonymousBytes, RemembersMemoryThatWasGivenBack) {
  PeakAnonymousBytes();
  constexpr size_t kSize = size_t{64} << 20;
  {
    std::vector<char> block(kSize, 1);
    EXPECT_GE(PeakAnonymousBytes(), kSize);
  }
  EXPECT_GE(PeakAnonymousBytes(), kSize);
  EXPECT_LT(AnonymousBytes(), kSize + (size_t{1} << 30));
}

TEST(ProgressLine, ShowsRateAndTimeLeftOnceTheyAreKnown) {
  EXPECT_EQ(ProgressLine(0, 10'000'000'000, 0), "0 B of 10.0 GB");
  EXPECT_EQ(ProgressLine(2'500'000'000, 10'000'000'000, 2),
            "2.50 GB of 10.0 GB, 1.25 GB/s, 6.00 s left");
  EXPECT_EQ(ProgressLine(1000, 0, 1), "1.00 kB, 1.00 kB/s");
}

}  // namespace
}  // namespace weighbridge
