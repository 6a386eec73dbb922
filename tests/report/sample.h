// Small reports that the tests of the report room share.
#pragma once

#include <string>

#include "checks/result.h"

namespace weighbridge::testing {

inline ResultRow MatchingRow(const std::string& name) {
  ResultRow row;
  row.hf = {{name, {4, 2}, DType::kBF16}};
  row.megatron = {"decoder." + name, {4, 2}, DType::kBF16};
  row.bytes = 16;
  return row;
}

inline ResultRow MismatchRow(const std::string& name, double max_diff) {
  ResultRow row = MatchingRow(name);
  row.status = RowStatus::kMismatch;
  row.transform = "qkv";
  row.metrics = {.max_diff = max_diff,
                 .mean_diff = 0.125,
                 .cosine = 0.5,
                 .max_relative = 2,
                 .max_ulp = 7,
                 .mismatched = 3,
                 .nan_count = 0,
                 .inf_count = 0};
  row.first = FirstDifference{.hf_tensor = name,
                              .hf_index = {3, 1},
                              .megatron_tensor = "decoder." + name,
                              .rank = RankId{.tp = 1, .pp = 2},
                              .megatron_index = {1, 1},
                              .expected = "0.5 (0x3f00)",
                              .actual = "0.25 (0x3e80)"};
  return row;
}

inline ResultRow MissingRow(const std::string& name) {
  ResultRow row;
  row.hf = {{name, {4, 2}, DType::kBF16}};
  row.status = RowStatus::kMissing;
  row.why = "no Megatron tensor holds it";
  return row;
}

inline Report PassingReport(int rows = 3) {
  Report report;
  report.command = "roundtrip";
  report.level = "L1";
  for (int i = 0; i < rows; ++i) {
    report.results.push_back(MatchingRow("model.layers." + std::to_string(i) + ".w"));
  }
  report.unproven = {"no foreign Megatron byte was read"};
  report.notes = {{"match-widened", "2 tensors were widened without loss"}};
  report.details = {{"family", "llama"}, {"grid", "tp 2, pp 1"}};
  report.wall_s = 0.5;
  report.bytes = 2'000'000'000;
  report.peak_anonymous_bytes = 35'000'000;
  report.argv = {"weighbridge", "roundtrip", "my model", "--tp", "2"};
  report.version = "0.1.0 (abc)";
  report.inputs = {{"my model/model.safetensors", 2'000'000'000, "00ff", std::nullopt}};
  Conclude(report);
  return report;
}

inline Report FailingReport() {
  Report report = PassingReport();
  report.results.push_back(MismatchRow("small", 0.25));
  report.results.push_back(MismatchRow("large", 4));
  report.results.push_back(MissingRow("gone"));
  ResultRow skipped = MatchingRow("skipped");
  skipped.status = RowStatus::kSkipped;
  skipped.why = "--allow-skip 'skip*'";
  report.results.push_back(skipped);
  report.causes = {{.id = "qkv-concatenated",
                    .proof = Proof::kExact,
                    .origin = Origin::kCheckpoint,
                    .where = {"decoder.layers.*.self_attention.linear_qkv.weight"},
                    .message = "linear_qkv holds q, k, v stacked whole",
                    .evidence = "4 of 4 tensors equal that layout bit for bit",
                    .hint = "interleave per query group"}};
  Conclude(report);
  return report;
}

inline Report UndecidedReport() {
  Report report;
  report.command = "roundtrip";
  report.level = "L1";
  report.argv = {"weighbridge", "roundtrip", "m"};
  Conclude(report);
  return report;
}

}  // namespace weighbridge::testing
