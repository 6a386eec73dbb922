// `manifest`: the hash of each canonical tensor of a checkpoint.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ranks.h"
#include "base/result.h"
#include "checks/canonical.h"
#include "formats/manifest/manifest.h"

namespace weighbridge {

struct ManifestOptions {
  std::optional<DType> config_dtype;  // see ConfigDType
  int threads = 1;
  Coordinator* coordinator = nullptr;            // divides the tensors; nullptr: one process
  std::function<void(uint64_t bytes)> progress;  // called from any thread
};

// The dtype that a config.json of Hugging Face says the weights have; nullopt when it says none.
std::optional<DType> ConfigDType(const nlohmann::json& config);

// Every tensor in the dtypes that it is stored in, that the config says (where it says none: that
// most tensors have), and that the family keeps it in, as far as its values fit them bit for bit.
// So a checkpoint, its import and its export have equal manifests, and one that was widened differs
// by what is added. Threads take whole tensors, the largest first; the result does not depend on
// them. Errors: kCorrupt with the first cause's id when the checkpoint is not complete; kUsage
// "nothing-hashed". With a coordinator each rank hashes its share, and only rank 0's manifest has
// all.
Result<Manifest> MakeManifest(const std::string& family, const CanonicalTensors& tensors,
                              const ManifestOptions& options);

// The hash of a tensor in each of `dtypes`; nullopt where its values do not fit one exactly.
Result<std::vector<std::optional<Xxh3Digest>>> HashOf(
    const CanonicalTensors& tensors, const CanonicalTensor& tensor, std::span<const DType> dtypes,
    const std::function<void(uint64_t bytes)>& progress);

// The hashes of what a quantized tensor is made of; empty for any other.
std::vector<ManifestStored> HashStored(const CanonicalTensors& tensors,
                                       const CanonicalTensor& tensor);

// 0 ... count - 1, the largest first: one hash runs on one thread, so those that take longest have
// to begin first.
std::vector<size_t> LargestFirst(size_t count, const std::function<uint64_t(size_t)>& bytes);

}  // namespace weighbridge
