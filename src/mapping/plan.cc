#include "mapping/plan.h"

#include <fmt/format.h>

#include <algorithm>

namespace weighbridge {
namespace {

// One piece seen from the walked side; strides in bytes.
struct WalkAxis {
  int64_t extent, walked, other;
};
struct WalkPiece {
  int other;
  int64_t walked_offset, other_offset;
  std::vector<WalkAxis> axes;  // descending walked stride
  bool copy = false;
};

WalkPiece FromPiece(const StridedPiece& piece, Side walked, int64_t element_bytes) {
  WalkPiece out;
  const bool by_target = walked == Side::kTarget;
  out.other = by_target ? piece.source : 0;
  out.copy = piece.copy;
  out.walked_offset = (by_target ? piece.target_offset : piece.source_offset) * element_bytes;
  out.other_offset = (by_target ? piece.source_offset : piece.target_offset) * element_bytes;
  for (const StridedAxis& a : piece.axes) {
    const int64_t walk = by_target ? a.target_stride : a.source_stride;
    const int64_t other = by_target ? a.source_stride : a.target_stride;
    out.axes.push_back({a.extent, walk * element_bytes, other * element_bytes});
  }
  std::stable_sort(out.axes.begin(), out.axes.end(),
                   [](const WalkAxis& x, const WalkAxis& y) { return x.walked > y.walked; });
  std::vector<WalkAxis> merged;
  for (const WalkAxis& axis : out.axes) {
    if (!merged.empty() && merged.back().walked == axis.walked * axis.extent &&
        merged.back().other == axis.other * axis.extent) {
      merged.back() = {merged.back().extent * axis.extent, axis.walked, axis.other};
    } else {
      merged.push_back(axis);
    }
  }
  out.axes = std::move(merged);
  return out;
}

// Peels off the innermost axes that one run can hold: contiguous bytes, then equal strides.
Run InnermostRun(WalkPiece& piece, int64_t element_bytes) {
  Run run;
  run.other = piece.other;
  run.copy = piece.copy;
  run.length = element_bytes;
  auto& axes = piece.axes;
  if (!axes.empty() && axes.back().walked == run.length &&
      (axes.back().other == run.length || piece.other == kZeroSource)) {
    run.length *= axes.back().extent;
    axes.pop_back();
  }
  if (!axes.empty() && axes.back().walked == run.length) {
    run.count = axes.back().extent;
    run.other_stride = axes.back().other;
    axes.pop_back();
  }
  return run;
}

void EmitRuns(const WalkPiece& piece, const Run& inner, size_t axis, int64_t walked, int64_t other,
              std::vector<Run>& out) {
  if (axis == piece.axes.size()) {
    Run run = inner;
    run.offset = walked;
    run.other_offset = piece.other == kZeroSource ? 0 : other;
    out.push_back(run);
    return;
  }
  const WalkAxis& a = piece.axes[axis];
  for (int64_t i = 0; i < a.extent; ++i) {
    EmitRuns(piece, inner, axis + 1, walked + i * a.walked, other + i * a.other, out);
  }
}

Result<Plan> FromRuns(std::vector<Run> runs, int64_t total_bytes) {
  std::sort(runs.begin(), runs.end(),
            [](const Run& a, const Run& b) { return a.offset < b.offset; });
  int64_t at = 0;
  RunCollector collector;
  for (const Run& run : runs) {
    if (run.offset != at) {
      return Fail(ErrorKind::kInternal, "not-a-bijection",
                  fmt::format("a plan's runs leave a gap or overlap at byte {}", at));
    }
    at = run.end();
    collector.Add(run);
  }
  if (at != total_bytes) {
    return Fail(ErrorKind::kInternal, "not-a-bijection",
                fmt::format("a plan covers {} of {} bytes", at, total_bytes));
  }
  return Plan(std::move(collector).Take());
}

}  // namespace

void RunCollector::Add(const Run& run) {
  if (run.length == 0 || run.count == 0) return;
  if (runs_.empty() || runs_.back().other != run.other || runs_.back().copy != run.copy) {
    runs_.push_back(run);
    return;
  }
  Run& last = runs_.back();
  const bool single = last.count == 1 && run.count == 1;
  if (run.other == kZeroSource) {
    last.length = last.bytes() + run.bytes();
    last.count = 1;
    last.other_stride = 0;
    return;
  }
  if (single && last.other_offset + last.length == run.other_offset) {
    last.length += run.length;
    return;
  }
  if (last.length == run.length) {
    const int64_t stride =
        last.count > 1 ? last.other_stride : run.other_offset - last.other_offset;
    if (stride > 0 && run.other_offset == last.other_offset + last.count * stride &&
        (run.count == 1 || run.other_stride == stride)) {
      last.count += run.count;
      last.other_stride = stride;
      return;
    }
  }
  runs_.push_back(run);
}

std::vector<Run> RunCollector::Take() && { return std::move(runs_); }

size_t Plan::FirstRunAt(int64_t offset) const {
  const auto it = std::upper_bound(runs_.begin(), runs_.end(), offset,
                                   [](int64_t o, const Run& run) { return o < run.end(); });
  return static_cast<size_t>(it - runs_.begin());
}

Result<Plan> CompileByTarget(const Layout& layout, int64_t element_bytes) {
  return CompileByTarget(layout.Pieces(), layout.numel(), element_bytes);
}

Result<Plan> CompileByTarget(std::span<const StridedPiece> pieces, int64_t numel,
                             int64_t element_bytes) {
  std::vector<Run> runs;
  for (const StridedPiece& piece : pieces) {
    WalkPiece walk = FromPiece(piece, Side::kTarget, element_bytes);
    const Run inner = InnermostRun(walk, element_bytes);
    EmitRuns(walk, inner, 0, walk.walked_offset, walk.other_offset, runs);
  }
  return FromRuns(std::move(runs), numel * element_bytes);
}

Result<Plan> CompileBySource(const Layout& layout, int source, SourceExtent extent,
                             int64_t element_bytes) {
  const auto interleaved = [] {
    return Fail(ErrorKind::kUnsupported, "interleaved", "a source's elements alternate");
  };
  std::vector<Run> runs;
  int64_t total = 0;
  for (const StridedPiece& piece : layout.Pieces()) {
    if (piece.source != source || piece.copy) continue;
    WB_TRY(const StridedPiece within, WithinExtent(piece, extent));
    WalkPiece walk = FromPiece(within, Side::kSource, element_bytes);
    const Run inner = InnermostRun(walk, element_bytes);
    int64_t count = 1;
    for (const WalkAxis& axis : walk.axes) count *= axis.extent;
    if ((total += count) > kMaxSourceRuns) return interleaved();
    EmitRuns(walk, inner, 0, walk.walked_offset, walk.other_offset, runs);
  }
  auto plan = FromRuns(std::move(runs), extent.numel * element_bytes);
  // The layout is a bijection, so what does not follow one another alternates.
  if (!plan && plan.error().id == "not-a-bijection") return interleaved();
  return plan;
}

Plan Compose(const Plan& outer, const Plan& inner) {
  RunCollector collector;
  for (const Run& run : outer.runs()) {
    if (run.other == kZeroSource) {
      collector.Add(run);
      continue;
    }
    for (int64_t i = 0; i < run.count; ++i) {
      const int64_t begin = run.other_offset + i * run.other_stride;
      const int64_t shift = run.offset + i * run.length - begin;
      inner.Visit(begin, begin + run.length, [&](Run part) {
        part.offset += shift;
        collector.Add(part);
      });
    }
  }
  return Plan(std::move(collector).Take());
}

}  // namespace weighbridge
