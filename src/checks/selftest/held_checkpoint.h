// A Megatron checkpoint in memory, made from a Hugging Face one as `import` would write it on one
// rank. Copies share what neither of them changes: a faulty checkpoint costs the tensors that are
// wrong in it, and no file is changed.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/selftest/held_tensor.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

class HeldCheckpoint final : public MegatronCheckpoint {
 public:
  // Tensor i is parameter i of `model`, under the name that Megatron writes. Its config is the one
  // that `import` writes, none where the family has no class of Megatron Bridge. Errors: those of
  // HfParameters::Create, GatherElements and BridgeRunConfig; kUnsupported "mixed-dtypes".
  static Result<HeldCheckpoint> Create(const Model& model, const Checkpoint& hf);

  // Writes the config into `folder`, which is empty and stands for the iteration's from then on:
  // nothing else is read there. Errors: kIo.
  Status SettleIn(std::filesystem::path folder);

  const HeldTensor& Held(size_t parameter) const { return *held_[parameter]; }
  void Hold(size_t parameter, HeldTensor tensor);
  // Whether the parameter is still there as it was: removed or in another shape it is not.
  bool IsWhole(size_t parameter) const { return whole_[parameter]; }
  // Takes the parameters out. Axes of layers and experts become shorter: those at their end may go.
  void Remove(const std::set<size_t>& parameters);
  void AddTensor(const std::string& key, HeldTensor tensor);
  // False: nothing is there under `key`, or something under `to`.
  bool Rename(const std::string& key, const std::string& to);
  // Puts change(tensor) in the place of all that stands under `key`.
  void Rewrite(const std::string& key, const std::function<HeldTensor(const HeldTensor&)>& change);
  // Megatron-Core's config; nullptr: there is none. What is changed counts after SettleIn.
  nlohmann::json* config_fields();

  // The same tensors under the same names, and the same config.
  bool SameAs(const HeldCheckpoint& other) const;
  // Parameters that hold other bytes than in `other`.
  std::vector<size_t> ChangedSince(const HeldCheckpoint& other) const;

  const std::filesystem::path& path() const override { return folder_; }
  std::string_view format() const override { return "torch_dist"; }
  const DistMetadata& metadata() const override { return metadata_; }
  Result<std::span<const std::byte>> Data(const DistTensor& tensor,
                                          const DistChunk& chunk) const override;
  std::span<const std::byte> Stored(const DistObject&) const override { return {}; }
  Result<nlohmann::json> CommonState() const override { return nlohmann::json::object(); }
  std::vector<FileInfo> identity() const override { return {}; }

 private:
  static size_t HeldIn(const DistChunk& chunk) { return static_cast<size_t>(chunk.stored.offset); }

  std::filesystem::path folder_;
  DistMetadata metadata_;  // a chunk's StoredBytes::offset is an index into held_
  std::vector<std::shared_ptr<const HeldTensor>> held_;
  std::vector<bool> whole_;    // by parameter; these are the first ones of held_
  nlohmann::json run_config_;  // the document; null: there is none
};

}  // namespace weighbridge
