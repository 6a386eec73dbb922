// Plans: sub-ranges, composition and merging never change what a byte is.
#include "mapping/plan.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <vector>

#include "mapping/plan_bytes.h"

namespace weighbridge {
namespace {

// Runs that tile [0, n), reading tensors of `others` with `room` bytes each.
std::vector<Run> AnyRuns(int others, int64_t room, bool zeros) {
  std::vector<Run> runs(*rc::gen::inRange<size_t>(1, 9));
  int64_t at = 0;
  for (Run& run : runs) {
    run.other = *rc::gen::inRange(zeros ? kZeroSource : 0, others);
    run.offset = at;
    run.length = *rc::gen::inRange<int64_t>(1, 6);
    run.count = *rc::gen::inRange<int64_t>(1, 5);
    if (run.other != kZeroSource) {
      if (run.count > 1) run.other_stride = *rc::gen::inRange<int64_t>(1, 9);
      int64_t reach = (run.count - 1) * run.other_stride + run.length;
      if (reach > room) {
        run.count = 1;
        run.other_stride = 0;
        reach = run.length = std::min(run.length, room);
      }
      run.other_offset = *rc::gen::inRange<int64_t>(0, room - reach + 1);
    }
    at = run.end();
  }
  return runs;
}

RC_GTEST_PROP(Plans, CollectingRunsNeverChangesTheirMeaning, ()) {
  const std::vector<Run> runs = AnyRuns(2, 64, true);
  Origins before;
  RunCollector collector;
  for (const Run& run : runs) {
    AppendRun(run, before);
    collector.Add(run);
  }
  const Plan plan(std::move(collector).Take());
  RC_ASSERT(BytesOf(plan) == before);
  RC_ASSERT(plan.bytes() == static_cast<int64_t>(before.size()));
  int64_t at = 0;
  for (const Run& run : plan.runs()) {
    RC_ASSERT(run.offset == at);
    at = run.end();
  }
}

// Runs that continue each other, cut anywhere, come back as few.
RC_GTEST_PROP(Plans, NeighboursThatContinueEachOtherBecomeOneRun, ()) {
  const auto pieces =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<int64_t>>(rc::gen::inRange<int64_t>(1, 7)));
  const bool zero = *rc::gen::arbitrary<bool>();
  RunCollector collector;
  int64_t at = 0;
  for (int64_t n : pieces) {
    collector.Add({zero ? kZeroSource : 3, at, zero ? 0 : 100 + at, n, 1, 0});
    at += n;
  }
  const std::vector<Run> merged = std::move(collector).Take();
  RC_ASSERT(merged.size() == 1u);
  RC_ASSERT(merged[0].bytes() == at);
}

RC_GTEST_PROP(Plans, VisitOfASubRangeIsThatPartOfTheWhole, ()) {
  const Plan plan(AnyRuns(3, 64, true));
  const Origins whole = BytesOf(plan);
  const int64_t begin = *rc::gen::inRange<int64_t>(0, plan.bytes() + 1);
  const int64_t end = *rc::gen::inRange<int64_t>(begin, plan.bytes() + 1);
  Origins part;
  int64_t at = begin;
  plan.Visit(begin, end, [&](const Run& run) {
    RC_ASSERT(run.offset == at);
    RC_ASSERT(run.length > 0 && run.count > 0);
    AppendRun(run, part);
    at = run.end();
  });
  RC_ASSERT(at == end || begin == end);
  RC_ASSERT(part == Origins(whole.begin() + begin, whole.begin() + end));
}

RC_GTEST_PROP(Plans, VisitsThatSplitARangeSeeTheSameBytes, ()) {
  const Plan plan(AnyRuns(2, 64, true));
  const auto cuts =
      *rc::gen::container<std::vector<int64_t>>(rc::gen::inRange<int64_t>(0, plan.bytes() + 1));
  std::vector<int64_t> sorted = cuts;
  sorted.push_back(0);
  sorted.push_back(plan.bytes());
  std::sort(sorted.begin(), sorted.end());
  Origins parts;
  for (size_t i = 0; i + 1 < sorted.size(); ++i) {
    plan.Visit(sorted[i], sorted[i + 1], [&](const Run& run) { AppendRun(run, parts); });
  }
  RC_ASSERT(parts == BytesOf(plan));
}

TEST(Plans, VisitBeyondTheEndAndOfNothingSeesNothing) {
  const Plan plan({{0, 0, 0, 4, 2, 8}});
  int runs = 0;
  const auto count = [&](const auto&) { ++runs; };
  plan.Visit(3, 3, count);
  plan.Visit(8, 12, count);
  plan.Visit(5, 2, count);
  Plan().Visit(0, 100, count);
  EXPECT_EQ(runs, 0);
  plan.Visit(-4, 100, count);
  EXPECT_EQ(runs, 1);
}

RC_GTEST_PROP(Plans, CompositionFollowsEachByteThroughBoth, ()) {
  const Plan inner(AnyRuns(2, 64, true));
  const auto room = inner.bytes();
  const Plan outer(AnyRuns(1, std::max<int64_t>(room, 1), true));
  const Origins between = BytesOf(inner);
  Origins expected;
  for (const Origin& e : BytesOf(outer)) {
    expected.push_back(e.other == kZeroSource ? e : between[static_cast<size_t>(e.offset)]);
  }
  const Plan composed = Compose(outer, inner);
  RC_ASSERT(BytesOf(composed) == expected);
  int64_t at = 0;
  for (const Run& run : composed.runs()) {
    RC_ASSERT(run.offset == at);
    at = run.end();
  }
}

TEST(Plans, ContiguousLayoutsAreOneRun) {
  const auto plan = CompileByTarget(Layout::Source(0, {64, 32, 16}), 2);
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->runs().size(), 1u);
  EXPECT_EQ(plan->runs()[0], (weighbridge::Run{0, 0, 0, 65536, 1, 0}));
}

TEST(Plans, LayoutsThatLeaveAGapDoNotCompile) {
  // Even indexes only: half of the source is not walked.
  const Layout half = Layout::Source(0, {8}).Every(0, 2, 0);
  EXPECT_TRUE(CompileByTarget(half, 4));
  const auto plan = CompileBySource(half, 0, {0, 8}, 4);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().id, "interleaved");
}

}  // namespace
}  // namespace weighbridge
