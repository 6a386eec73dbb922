#include "checks/make_manifest.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "base/threads.h"
#include "checks/inventory.h"
#include "checks/tensor_hash.h"

namespace weighbridge {
namespace {

// Narrow to wide, each once.
std::vector<DType> DTypesOf(const CanonicalTensor& tensor, DType main) {
  std::vector<DType> out = {tensor.stored};
  for (DType dtype : {main, tensor.declared.value_or(main)}) {
    if (Comparable(tensor.stored, dtype)) out.push_back(dtype);
  }
  std::sort(out.begin(), out.end(),
            [](DType a, DType b) { return std::pair(BitsOf(a), a) < std::pair(BitsOf(b), b); });
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

// In which most tensors are stored; of equals the narrower.
DType MainDType(const std::vector<CanonicalTensor>& tensors) {
  std::map<std::pair<int, DType>, size_t> counts;
  for (const CanonicalTensor& t : tensors) ++counts[{BitsOf(t.stored), t.stored}];
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first.second;
}

Status RequireWhole(const CanonicalTensors& tensors) {
  WB_RETURN_IF_ERROR(RequireNoCause(tensors.causes()));
  if (!tensors.tensors().empty()) return {};
  return Fail(ErrorKind::kUsage, "nothing-hashed", "the checkpoint has no tensor to hash");
}

// Those of `order` that this rank hashes.
std::vector<size_t> ShareOf(const Coordinator& ranks, const std::vector<CanonicalTensor>& all,
                            const std::vector<size_t>& order) {
  std::vector<uint64_t> bytes;
  for (const CanonicalTensor& tensor : all) bytes.push_back(tensor.bytes());
  const std::vector<int> owner = AssignByBytes(bytes, ranks.size());
  std::vector<size_t> share;
  std::copy_if(order.begin(), order.end(), std::back_inserter(share),
               [&](size_t i) { return owner[i] == ranks.rank(); });
  return share;
}

// Sends what this rank hashed, and on rank 0 takes what the others did.
Status Collect(Coordinator& ranks, const std::vector<size_t>& share, Manifest& manifest) {
  const Manifest mine = [&] {
    Manifest part{manifest.family, {}, {}};
    for (const size_t i : share) part.tensors.push_back(manifest.tensors[i]);
    std::sort(part.tensors.begin(), part.tensors.end(),
              [](const ManifestTensor& a, const ManifestTensor& b) { return a.name < b.name; });
    return part;
  }();
  std::string text;
  if (!mine.tensors.empty()) WriteManifest(mine, [&](std::string_view line) { text += line; });
  WB_TRY(const auto texts, ranks.Gather(text));
  if (!ranks.first()) return {};
  std::vector<ManifestTensor> all;
  for (const std::string& part : texts) {
    if (part.empty()) continue;
    const auto bytes = std::as_bytes(std::span(part));
    WB_TRY(Manifest parsed, ParseManifest(bytes, bytes, "a rank's manifest"));
    std::move(parsed.tensors.begin(), parsed.tensors.end(), std::back_inserter(all));
  }
  std::sort(all.begin(), all.end(),
            [](const ManifestTensor& a, const ManifestTensor& b) { return a.name < b.name; });
  if (all.size() != manifest.tensors.size()) {
    return Fail(ErrorKind::kInternal, "ranks", "the ranks' manifests are not the whole one");
  }
  manifest.tensors = std::move(all);
  return {};
}

}  // namespace

std::optional<DType> ConfigDType(const nlohmann::json& config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto it = config.find(key);
    if (it == config.end() || !it->is_string()) continue;
    const auto text = it->get<std::string>();
    const std::string prefix = "torch.";
    return ParseShortName(text.starts_with(prefix) ? text.substr(prefix.size()) : text);
  }
  const auto inner = config.find("text_config");
  return inner != config.end() && inner->is_object() ? ConfigDType(*inner) : std::nullopt;
}

Result<std::vector<std::optional<Xxh3Digest>>> HashOf(
    const CanonicalTensors& tensors, const CanonicalTensor& tensor, std::span<const DType> dtypes,
    const std::function<void(uint64_t bytes)>& progress) {
  TensorHash hash(tensor.stored, dtypes);
  WB_RETURN_IF_ERROR(tensors.Visit(tensor, [&](std::span<const std::byte> bytes) -> Status {
    if (progress) progress(bytes.size());
    return hash.Update(bytes);
  }));
  return hash.Digests();
}

std::vector<ManifestStored> HashStored(const CanonicalTensors& tensors,
                                       const CanonicalTensor& tensor) {
  std::vector<ManifestStored> out;
  const QuantizedTensor* q = tensors.Quantized(tensor);
  if (q == nullptr) return out;
  for (const std::string& name : q->stored) {
    const TensorInfo* part = tensors.Stored().Find(name);
    Xxh3Stream hash;
    hash.Update(tensors.Stored().Data(*part));
    out.push_back({name, part->dtype, part->shape, hash.Digest()});
  }
  return out;
}

std::vector<size_t> LargestFirst(size_t count, const std::function<uint64_t(size_t)>& bytes) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return bytes(a) > bytes(b); });
  return order;
}

Result<Manifest> MakeManifest(const std::string& family, const CanonicalTensors& tensors,
                              const ManifestOptions& options) {
  WB_RETURN_IF_ERROR(RequireWhole(tensors));
  const std::vector<CanonicalTensor>& all = tensors.tensors();
  const DType main = options.config_dtype.value_or(MainDType(all));
  Manifest manifest{family, std::vector<ManifestTensor>(all.size()), {}};
  for (const NotNeeded& rule : tensors.not_held()) {
    manifest.not_held.push_back({rule.pattern, rule.why});
  }
  std::vector<size_t> order = LargestFirst(all.size(), [&](size_t i) { return all[i].bytes(); });
  const bool shared = options.coordinator != nullptr && options.coordinator->size() > 1;
  if (shared) order = ShareOf(*options.coordinator, all, order);
  const auto hash = [&](size_t i) -> Status {
    if (shared) WB_RETURN_IF_ERROR(options.coordinator->Check());
    const CanonicalTensor& tensor = all[order[i]];
    const std::vector<DType> dtypes = DTypesOf(tensor, main);
    WB_TRY(const auto digests, HashOf(tensors, tensor, dtypes, options.progress));
    ManifestTensor& out = manifest.tensors[order[i]];
    out.name = tensor.name;
    out.shape = tensor.shape;
    for (size_t d = 0; d < dtypes.size(); ++d) {
      if (digests[d]) out.entries.push_back({dtypes[d], *digests[d]});
    }
    if (const QuantizedTensor* q = tensors.Quantized(tensor)) {
      out.scheme = q->scheme;
      out.stored = HashStored(tensors, tensor);
    }
    return {};
  };
  WB_RETURN_IF_ERROR(TryParallelFor(order.size(), options.threads, hash));
  if (shared) WB_RETURN_IF_ERROR(Collect(*options.coordinator, order, manifest));
  return manifest;
}

}  // namespace weighbridge
