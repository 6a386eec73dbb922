#include "checks/left_out.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/strings.h"

namespace weighbridge {

void AddLeftOut(const std::string& side, const NotNeeded& rule, uint64_t bytes,
                std::vector<LeftOut>& groups) {
  auto group = std::find_if(groups.begin(), groups.end(), [&](const LeftOut& g) {
    return g.side == side && g.pattern == rule.pattern && g.why == rule.why;
  });
  if (group == groups.end()) {
    groups.push_back({side, rule.pattern, rule.why});
    group = groups.end() - 1;
  }
  ++group->tensors;
  group->bytes += bytes;
}

void AddLeftOut(const Checkpoint& hf, const TensorInfo& tensor, const NotNeeded& rule,
                std::vector<LeftOut>& groups) {
  const QuantizedTensor* quantized = hf.Quantized(tensor);
  uint64_t bytes = quantized == nullptr ? tensor.nbytes : 0;
  for (size_t i = 0; quantized != nullptr && i < quantized->stored.size(); ++i) {
    const TensorInfo* part = hf.Stored().Find(quantized->stored[i]);
    if (part != nullptr) bytes += part->nbytes;
  }
  AddLeftOut("HF", rule, bytes, groups);
}

std::vector<LeftOut> PartsNotMade(const Model& model) {
  std::vector<LeftOut> parts;
  for (const NotNeeded& rule : model.not_needed()) {
    if (rule.is_part()) parts.push_back({"HF", rule.pattern, rule.why});
  }
  return parts;
}

Note Describe(const LeftOut& group) {
  const std::string size =
      group.tensors > 0
          ? fmt::format("{} {} tensor(s), {},", group.tensors, group.side, FormatBytes(group.bytes))
          : fmt::format("{} tensors, as far as the model has them,", group.side);
  return {"not-needed", fmt::format("{} are left out: {} ({})", size, group.pattern, group.why)};
}

}  // namespace weighbridge
