// Finds every parameter of a model in the inventory of a distributed Megatron checkpoint. Reads no
// tensor data.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/leading_axes.h"
#include "checks/left_out.h"
#include "checks/result.h"
#include "family/disk_names.h"
#include "family/model.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

// A parameter that is there in its shape.
struct BoundParameter {
  const Parameter* parameter = nullptr;
  const DistTensor* tensor = nullptr;  // of several, the first
  std::vector<int64_t> index;          // tensor[index] is the parameter
  std::vector<BoundChunk> chunks;      // they tile it
};

// The chunk that holds element `index` of the parameter; nullptr when there is none.
const BoundChunk* ChunkWith(const BoundParameter& bound, const std::vector<int64_t>& index);

struct MegatronBinding {
  std::vector<BoundParameter> bound;  // in the model's order
  // Rows for what is missing, extra or of another shape; never matches.
  std::vector<ResultRow> rows;
  std::vector<Cause> causes;
  std::vector<Note> notes;
  // Norms under the names of another module spec than the others: bound, and yet no model of
  // Megatron's loads them all. For what judges, not for what reads.
  std::vector<Cause> mixed_names;
  std::vector<LeftOut> left_out;  // MTP layers that are passed over; `notes` has them
  // A tied model's output layer that is stored although it need not be; must equal the embedding.
  const DistTensor* tied_copy = nullptr;
};

// `without_mtp`: MTP layers on disk are passed over.
MegatronBinding BindMegatron(const Model& model, const DistMetadata& metadata, bool without_mtp);

// Rows of the word embedding on disk; 0 when there is none.
int64_t StoredVocab(const Model& model, const DistMetadata& metadata);

// A model, and the checkpoint as that model sees it where that is not the checkpoint as it is
// (rank files: ViewAsGlobal).
struct StoredModel {
  Model model;
  std::unique_ptr<MegatronCheckpoint> view;  // nullptr: as it is
};

// Model::Expand for the vocabulary that the Megatron checkpoint really has.
Result<StoredModel> ExpandAsStored(const FamilySpec& family, const nlohmann::json& config,
                                   ExpandOptions options,
                                   std::shared_ptr<const MegatronCheckpoint> checkpoint);

// The same, where the view takes the checkpoint's place.
Result<Model> ExpandAsStored(const FamilySpec& family, const nlohmann::json& config,
                             ExpandOptions options,
                             std::unique_ptr<MegatronCheckpoint>& checkpoint);

// A pointer that keeps nothing alive, for a view that is given up before its checkpoint.
std::shared_ptr<const MegatronCheckpoint> Borrowed(const MegatronCheckpoint& checkpoint);

}  // namespace weighbridge
