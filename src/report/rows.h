// What all renderings of rows have in common: their order, their name, and the words for a status.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "checks/result.h"

namespace weighbridge {

// True for mismatch, missing and extra.
bool Failed(const ResultRow& row);

// True when the elements of both sides were compared, so that the metrics mean something: not for
// an absent or skipped tensor, nor for one that differs in shape only or of which headers were
// read.
bool HasMetrics(const ResultRow& row);

// Indexes of the rows, worst first: missing, extra, mismatch (values that are not finite, then by
// max_diff), skipped, then what passed. Rows that are equally bad keep their order.
std::vector<size_t> RowsWorstFirst(const Report& report);

// The side that names a row: the Megatron tensor for `verify` and for what a rank holds, else the
// HF tensor; the other one when that side has no tensor.
const TensorRef& PrimaryTensor(const Report& report, const ResultRow& row);

// PrimaryTensor's name, with the rank when there is one: "decoder.final_layernorm.weight @ tp 1, pp
// 0".
std::string RowName(const Report& report, const ResultRow& row);

// "tp 1, pp 0": the coordinates of a rank; vpp, ep and etp only where they are not 0.
std::string ToString(const RankId& rank);

// "[3, 17]".
std::string IndexText(const std::vector<int64_t>& index);

// "yes", "yes (widened)", "no", "missing": the column 'Matches Original'.
std::string_view MatchWord(RowStatus status);
// The same, and "fits" where only headers were read.
std::string_view MatchWord(const Report& report, const ResultRow& row);

// "bf16", "bf16 -> fp32" where the sides differ, "" where neither is known.
std::string DTypeText(const ResultRow& row);

// "128 of the values differ" or what `why` says; "" for a row that passed without a remark.
std::string WhyText(const ResultRow& row);

// "first at model.x[3, 17] = decoder.y (tp 1, pp 0)[3, 5]: expected 0.5 (0x3f00), actual 0.25".
std::string FirstText(const FirstDifference& first);

// Shortest text for a metric, "not finite" for NaN and infinity.
std::string MetricText(double value);

// "PASSED", "FAILED", "UNDECIDED".
std::string_view VerdictWord(Verdict verdict);

// The command line as one could type it again: arguments quoted for a POSIX shell where needed, the
// program's folder left out.
std::string CommandLine(const std::vector<std::string>& argv);

}  // namespace weighbridge
