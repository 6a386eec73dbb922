// Small checkpoints in Hugging Face's layout: random ones of any family, and the first layers of a
// real one. The output folder appears whole or not at all (base/atomic_output.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/atomic_output.h"
#include "base/result.h"
#include "family/spec.h"
#include "formats/checkpoint.h"

namespace weighbridge {

struct ToyOptions {
  uint64_t max_shard_bytes = 5'000'000'000;
  bool overwrite = false;
  int threads = 1;
  std::function<void(uint64_t)> progress;  // bytes written since the last call; any thread
};

// What was made.
struct Toy {
  std::filesystem::path path;
  std::string family;  // empty: not known
  int64_t layers = 0;
  uint64_t tensors = 0, parameters = 0, files = 0;
  uint64_t bytes = 0;               // of all tensors
  int64_t source_layers = 0;        // truncated only
  std::vector<std::string> copied;  // files beside the weights, sorted; truncated only
  std::vector<std::string> notes;
  Publication published;
};

// --- random ---

// One --set: a dotted config key and its value.
struct ConfigEdit {
  std::string key;
  nlohmann::ordered_json value;
};

// "KEY=VALUE": VALUE is JSON, else True, False or None as Python spells them, else a string. kUsage
// without a key.
Result<ConfigEdit> ParseConfigEdit(const std::string& text);

// The edit that gives a model of `spec` so many layers. kUsage when no one config key counts them.
Result<ConfigEdit> LayersEdit(const FamilySpec& spec, int64_t layers);

// The config of a random model of `spec`: `base` (a config.json), or the family's own [toy] table
// when it is null; then the edits in order; then architectures, model_type and the dtype where they
// are missing. An edit of one of several spellings of a size drops the other spellings. Keys that
// neither the family nor the base knows are named in `notes`. kUsage for an edit below a value that
// is no object and for a family without [toy] when there is no base.
Result<nlohmann::ordered_json> ToyConfig(const FamilySpec& spec, const nlohmann::ordered_json& base,
                                         const std::vector<ConfigEdit>& edits, DType dtype,
                                         std::vector<std::string>& notes);

struct RandomToyOptions : ToyOptions {
  DType dtype = DType::kBF16;  // BF16, F16 or F32
  uint64_t seed = 0;
  bool without_mtp = false;
};

// Writes a model with random weights: every tensor that the family asks for, config.json and
// generation_config.json. Equal family, config, dtype and seed give equal bytes, whatever the
// number of threads: each value is a function of the seed, the tensor's name and the element's
// number. Weights and biases are uniform with the config's initializer_range as standard deviation,
// norm weights lie around 1 (around 0 where the family stores w - 1). Memory: one block per thread.
// Errors: kInvalid for a config that does not fit the family; those of AtomicDirectory.
Result<Toy> MakeRandomToy(const FamilySpec& spec, const nlohmann::ordered_json& config,
                          const std::filesystem::path& target, const RandomToyOptions& options);

// Elements [first, first + count) of the random tensor `name`: `out` has room for them in `dtype`.
// `first` is even. Values lie within `scale` of `centre`. Pure; any thread.
void FillRandom(const std::string& name, uint64_t seed, DType dtype, float centre, float scale,
                uint64_t first, uint64_t count, std::byte* out);

// --- the first layers of a real model ---

struct TruncateOptions : ToyOptions {
  int64_t layers = 0;
  bool without_mtp = false;
};

// Writes the first `layers` layers of `source` and all that is outside of layers, every tensor byte
// for byte; multi-token-prediction layers that follow the last layer are renumbered to follow the
// new last one. `config` (of the source) is written with the number of layers, the lists with an
// entry per layer and first_k_dense_replace fitted, all else as it was, in its order; other files
// of the source's folder are copied when they are no weights and at most 64 MiB. With `spec` the
// family's stacks say what a layer is; without (nullptr) tensors named `layers.I.` are, which a
// note says. Memory: the inventory and the largest of the copied files. Errors: kUsage when the
// model has fewer layers or the target holds the source; kUnsupported when the config has no number
// of layers, or the family's model of so few layers has other tensors; those of AtomicDirectory.
Result<Toy> MakeTruncatedToy(const Checkpoint& source, const FamilySpec* spec,
                             const nlohmann::ordered_json& config,
                             const std::filesystem::path& target, const TruncateOptions& options);

}  // namespace weighbridge
