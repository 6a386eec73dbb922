#include "base/stop.h"

#include <gtest/gtest.h>

#include <atomic>

#include "base/threads.h"

namespace weighbridge {
namespace {

TEST(Stop, NothingIsStoppedWithoutAScope) {
  EXPECT_FALSE(StopRequested());
  EXPECT_TRUE(TryParallelFor(8, 4, [](size_t) { return Status(); }));
}

TEST(Stop, PiecesAfterTheRequestAreLeftOutOnEveryThread) {
  StopFlag flag{false};
  const StopScope scope(&flag);
  std::atomic<int> begun{0};
  const Status status = TryParallelFor(1000, 4, [&](size_t) {
    ++begun;
    flag = true;
    return Status();
  });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().id, "interrupted");
  EXPECT_GE(begun, 1);
  EXPECT_LE(begun, 4);
}

TEST(Stop, AScopeEndsWithItsBlock) {
  StopFlag flag{true};
  {
    const StopScope scope(&flag);
    EXPECT_TRUE(StopRequested());
    StopFlag inner{false};
    const StopScope other(&inner);
    EXPECT_FALSE(StopRequested());
  }
  EXPECT_FALSE(StopRequested());
}

}  // namespace
}  // namespace weighbridge
