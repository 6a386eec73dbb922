#include "formats/torch_dist/fsdp_names.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace weighbridge {
namespace {

constexpr std::string_view kModel = "model.", kModule = "module.", kOptimizer = "optimizer.";
constexpr std::string_view kFirst = "_w", kSecond = "_v";

bool IsFsdp(const DistMetadata& metadata) {
  bool any = false;
  for (const DistTensor& tensor : metadata.tensors) {
    const bool model = tensor.key.starts_with("model.module.");
    if (!model && !tensor.key.starts_with(kOptimizer)) return false;
    any = any || model;
  }
  return any;
}

std::string WithoutPrefix(std::string_view key) {
  if (!key.starts_with(kModel)) return std::string(key);
  key.remove_prefix(kModel.size());
  while (key.starts_with(kModule)) key.remove_prefix(kModule.size());
  return std::string(key);
}

void SortByKey(std::vector<DistTensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const DistTensor& a, const DistTensor& b) { return a.key < b.key; });
}

// Whether `b` can stand below `a`: all but their first extents are equal.
bool Stack(const DistTensor& a, const DistTensor& b) {
  return a.dtype == b.dtype && !a.shape.empty() && a.shape.size() == b.shape.size() &&
         std::equal(a.shape.begin() + 1, a.shape.end(), b.shape.begin() + 1) &&
         a.shape[0] <= INT64_MAX - b.shape[0];
}

// The rows of `second` behind those of `first`.
void Join(DistTensor& first, const DistTensor& second) {
  for (DistChunk chunk : second.chunks) {
    chunk.offsets[0] += first.shape[0];
    first.chunks.push_back(std::move(chunk));
  }
  first.shape[0] += second.shape[0];
}

}  // namespace

bool TakeFsdpNames(DistMetadata& metadata) {
  if (!IsFsdp(metadata)) return false;
  for (DistTensor& tensor : metadata.tensors) tensor.key = WithoutPrefix(tensor.key);
  SortByKey(metadata.tensors);
  std::vector<DistTensor> out;
  std::vector<const DistTensor*> joined;
  for (const DistTensor& tensor : metadata.tensors) {
    if (!tensor.key.ends_with(kFirst)) continue;
    const std::string key = tensor.key.substr(0, tensor.key.size() - kFirst.size());
    const DistTensor* second = metadata.Find(key + std::string(kSecond));
    if (second == nullptr || !Stack(tensor, *second)) continue;
    DistTensor whole = tensor;
    whole.key = key;
    Join(whole, *second);
    joined.insert(joined.end(), {&tensor, second});
    out.push_back(std::move(whole));
  }
  std::sort(joined.begin(), joined.end());
  for (DistTensor& tensor : metadata.tensors) {
    if (!std::binary_search(joined.begin(), joined.end(), &tensor))
      out.push_back(std::move(tensor));
  }
  SortByKey(out);
  metadata.tensors = std::move(out);
  return true;
}

}  // namespace weighbridge
