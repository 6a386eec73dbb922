// A plan is a layout compiled for one tensor: byte runs in the order of one side's memory. The same
// runs serve import (copy), verify (compare in place), and locating a wrong byte. DESIGN §4.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "mapping/layout.h"

namespace weighbridge {

// `count` chunks of `length` bytes. Chunk i is at offset + i * length on the walked side (so a run
// is contiguous there) and at other_offset + i * other_stride in tensor `other` of the other side.
struct Run {
  int other = 0;  // kZeroSource: padding, there are no bytes on the other side
  int64_t offset = 0;
  int64_t other_offset = 0;
  int64_t length = 0;
  int64_t count = 1;
  int64_t other_stride = 0;
  bool copy = false;  // by target: these bytes of `other` stand in another run too, which is none

  int64_t bytes() const { return length * count; }
  int64_t end() const { return offset + length * count; }
  bool operator==(const Run&) const = default;
};

// Runs that follow each other without gap: they tile [0, bytes()) of the walked side. Immutable.
class Plan {
 public:
  Plan() = default;
  explicit Plan(std::vector<Run> runs) : runs_(std::move(runs)) {}

  std::span<const Run> runs() const { return runs_; }
  int64_t bytes() const { return runs_.empty() ? 0 : runs_.back().end(); }

  // The runs of [begin, end) in order, cut to it.
  template <typename Visitor>  // void(const Run&)
  void Visit(int64_t begin, int64_t end, Visitor&& visit) const;

 private:
  size_t FirstRunAt(int64_t offset) const;
  std::vector<Run> runs_;
};

// The parts of `run` inside of [begin, end): at most a partial chunk, whole chunks, a partial
// chunk.
template <typename Visitor>
void VisitClipped(const Run& run, int64_t begin, int64_t end, Visitor&& visit);

// Collects runs in walking order and merges neighbours that continue each other.
class RunCollector {
 public:
  void Add(const Run& run);
  std::vector<Run> Take() &&;

 private:
  std::vector<Run> runs_;
};

// Walks the target: run.offset is in the target, run.other a source of the layout.
// Error kInternal when the layout does not tile its target in this order.
Result<Plan> CompileByTarget(const Layout& layout, int64_t element_bytes);
// The same of pieces that tile `numel` elements of a target.
Result<Plan> CompileByTarget(std::span<const StridedPiece> pieces, int64_t numel,
                             int64_t element_bytes);

// Walks the elements `extent` of source `source`: run.offset counts those alone, run.other is
// 0 (the target); copies are left out. Error kUnsupported "interleaved" when the source's elements
// alternate between pieces or would take more than kMaxSourceRuns runs: walk the target then.
inline constexpr int64_t kMaxSourceRuns = 1 << 20;
Result<Plan> CompileBySource(const Layout& layout, int source, SourceExtent extent,
                             int64_t element_bytes);

// `outer` walks A and names bytes of B; `inner` walks B and names bytes of C. The composition walks
// A and names bytes of C.
Plan Compose(const Plan& outer, const Plan& inner);

// -- implementation of the templates --

template <typename Visitor>
void VisitClipped(const Run& run, int64_t begin, int64_t end, Visitor&& visit) {
  begin = std::max(begin, run.offset);
  end = std::min(end, run.end());
  if (begin >= end) return;
  if (begin == run.offset && end == run.end()) return visit(run);
  const auto emit = [&](int64_t at, int64_t chunk, int64_t within, int64_t length, int64_t count) {
    Run part = run;
    part.offset = at;
    part.length = length;
    part.count = count;
    if (count == 1) part.other_stride = 0;
    if (run.other != kZeroSource) {
      part.other_offset = run.other_offset + chunk * run.other_stride + within;
    }
    visit(part);
  };
  int64_t chunk = (begin - run.offset) / run.length;
  const int64_t within = (begin - run.offset) % run.length;
  if (within != 0) {
    const int64_t length = std::min(run.length - within, end - begin);
    emit(begin, chunk, within, length, 1);
    begin += length;
    ++chunk;
  }
  const int64_t whole = (end - begin) / run.length;
  if (whole > 0) {
    emit(begin, chunk, 0, run.length, whole);
    begin += whole * run.length;
    chunk += whole;
  }
  if (begin < end) emit(begin, chunk, 0, end - begin, 1);
}

template <typename Visitor>
void Plan::Visit(int64_t begin, int64_t end, Visitor&& visit) const {
  for (size_t i = FirstRunAt(begin); i < runs_.size() && runs_[i].offset < end; ++i) {
    VisitClipped(runs_[i], begin, end, visit);
  }
}

}  // namespace weighbridge
