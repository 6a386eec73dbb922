#include "checks/scales.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/threads.h"

namespace weighbridge {
namespace {

constexpr int64_t kScalesAtATime = 1 << 20;

struct Counted {
  const TensorInfo* tensor = nullptr;
  const QuantizedTensor* quantized = nullptr;
  ScaleCounts counts;
  bool nan_codes = false;  // all of them
};

std::vector<Counted> QuantizedTensors(const Checkpoint& hf) {
  std::vector<Counted> out;
  if (&hf.Stored() == &hf) return out;
  for (const TensorInfo& t : hf.tensors()) {
    if (const QuantizedTensor* q = hf.Quantized(t)) out.push_back({&t, q, {}, false});
  }
  return out;
}

void Count(Counted& c) {
  const int64_t scales = ScaleCount(*c.quantized);
  for (int64_t at = 0; at < scales; at += kScalesAtATime) {
    c.counts += CountScales(*c.quantized, at, std::min(kScalesAtATime, scales - at));
  }
  c.nan_codes = CodesAreNan(*c.quantized);
}

// Why a weight holds nothing that a model was trained to; "" where it may.
std::string WhyNothing(const Counted& c) {
  const ScaleCounts& counts = c.counts;
  if (counts.not_finite > 0) {
    return fmt::format("{} of {} scales are NaN or infinite, the first is number {}",
                       counts.not_finite, counts.total, counts.first_not_finite);
  }
  if (counts.total > 0 && counts.zero == counts.total) {
    return fmt::format("all {} scales are zero, and so is every value", counts.total);
  }
  return c.nan_codes ? "every code is NaN" : "";
}

void Judge(const std::vector<Counted>& counted, ScaleJudgement& out) {
  ScaleCounts all;
  std::vector<std::string> where;
  for (const Counted& c : counted) {
    all += c.counts;
    const std::string why = WhyNothing(c);
    if (why.empty()) continue;
    out.faults[c.tensor->name] = "scale-invalid: " + why;
    if (where.size() < 8) where.push_back(fmt::format("{}: {}", c.tensor->name, why));
  }
  if (!where.empty()) {
    const std::string evidence = where.front();
    out.causes.push_back(
        {"scale-invalid", Proof::kExact, Origin::kCheckpoint, std::move(where),
         fmt::format("{} weight(s) have scales or codes that give no values", out.faults.size()),
         evidence,
         "NaN, infinity or zeros stand in place of the weights; quantize the model again"});
  }
  if (all.zero > 0) {
    out.notes.push_back({"scale-zero", fmt::format("{} of {} scales are zero, and so is every "
                                                   "weight of their blocks",
                                                   all.zero, all.total)});
  }
  if (all.negative > 0) {
    out.notes.push_back(
        {"scale-negative", fmt::format("{} of {} scales are negative", all.negative, all.total)});
  }
  if (all.ambiguous > 0) {
    out.notes.push_back(
        {"scale-ambiguous", fmt::format("under {} of {} scales several codes have one value: only "
                                        "`export --like` this checkpoint brings the codes back",
                                        all.ambiguous, all.total)});
  }
}

}  // namespace

Result<ScaleJudgement> JudgeScales(const Checkpoint& hf, int threads) {
  std::vector<Counted> counted = QuantizedTensors(hf);
  ScaleJudgement out;
  WB_RETURN_IF_ERROR(TryParallelFor(counted.size(), threads, [&](size_t i) -> Status {
    Count(counted[i]);
    return {};
  }));
  Judge(counted, out);
  return out;
}

void TakeScaleFaults(const ScaleJudgement& scales, ResultRow& row) {
  for (const TensorRef& tensor : row.hf) {
    const auto fault = scales.faults.find(tensor.name);
    if (fault == scales.faults.end()) continue;
    row.status = RowStatus::kMismatch;
    row.why =
        row.hf.size() == 1 ? fault->second : fmt::format("{}: {}", tensor.name, fault->second);
  }
}

std::optional<std::string> PackedText(DType dtype, const Shape& stored, const Shape& values) {
  const auto packed = FindPacking(dtype, stored, values);
  if (!packed) return std::nullopt;
  return fmt::format("{} {}, where values of shape {} are expected: {} codes of {} bits in each {}",
                     ShortName(dtype), ToString(stored), ToString(values), packed->each,
                     packed->bits, ShortName(dtype));
}

std::string OpText(const QuantizedTensor* quantized, Op op, DType from, DType to) {
  std::string text;
  if (quantized != nullptr) text = fmt::format("dequantize {}", quantized->scheme);
  std::string then;
  if (op != Op::kNone) {
    then = ToString(op);
  } else if (from != to) {
    then = fmt::format("cast {} -> {}", ShortName(from), ShortName(to));
  }
  if (text.empty()) return then.empty() ? "none" : then;
  return then.empty() ? text : text + ", " + then;
}

}  // namespace weighbridge
