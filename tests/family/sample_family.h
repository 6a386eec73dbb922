// A small family that the tests of this room break in one place at a time.
#pragma once

#include <map>
#include <string>

#include "family/library.h"
#include "family/lint.h"
#include "family/model.h"

namespace weighbridge {

// Replaces `from` (which must be there) by `to`.
inline std::string With(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at == std::string::npos) return "the sample has no: " + from;
  return text.replace(at, from.size(), to);
}

inline const std::string kSampleFamily = R"(schema = 1
family = "tiny"
hf_architectures = ["TinyForCausalLM"]
hf_model_types = ["tiny"]

[dims]
layers = "num_hidden_layers"
hidden = "hidden_size"
vocab = "vocab_size"
half = { keys = ["half", "deep.half"], default = "hidden / 2" }
experts = { keys = ["num_experts"], default = "0" }

[flags]
tied = { keys = ["tie_word_embeddings"], default = "false" }

[layer_kinds.mlp]
rule = "every_n"
n = 2
hit = "moe"
miss = "dense"

[config]
num_layers = { dim = "layers" }
share = { flag = "tied" }

[[stack]]
name = "decoder"
megatron = "decoder.layers.{layer}."
hf = "model.layers.{layer}."
count = "layers"

[tied]
when = "tied"
megatron = "output_layer.weight"
hf = "lm_head.weight"
same_as = "embed.weight"

[[param]]
megatron = "embedding.word_embeddings.weight"
hf = "embed.weight"
shape = ["padded_vocab", "hidden"]
transform = "pad_vocab"
tp = "column"
place = "first"

[[param]]
stack = "decoder"
layers = "dense"
megatron = "mlp.linear_fc1.weight"
local = "mlp.local_fc1.weight"
hf = ["gate.weight", "up.weight"]
shape = ["2 * half", "hidden"]
transform = "gated_mlp"
tp = "column"
components = ["half", "half"]

[[param]]
stack = "decoder"
layers = "moe"
experts = "experts"
megatron = "mlp.experts.linear_fc2.weight{expert}"
hf = "experts.{expert}.down.weight"
shape = ["hidden", "half"]
tp = "row"

[[param.alternative]]
hf = "experts.down"
transform = "expert"

[[param]]
megatron = "decoder.final_layernorm.weight"
hf = "norm.weight"
shape = ["hidden"]
place = "last"

[[param]]
megatron = "output_layer.weight"
hf = "lm_head.weight"
shape = ["padded_vocab", "hidden"]
transform = "pad_vocab"
tp = "column"
place = "last"
unless = "tied"

[[hf_ignore]]
stack = "decoder"
hf = "inv_freq"
why = "computed"
)";

inline const char kSampleConfig[] =
    R"({"architectures": ["TinyForCausalLM"], "num_hidden_layers": 4,
  "hidden_size": 8, "vocab_size": 10, "num_experts": 4})";

// A library of just these families (name -> text).
inline Result<FamilyLibrary> LibraryOf(const std::map<std::string, std::string>& texts) {
  FamilyLibrary library;
  if (auto added = library.Add(texts, ""); !added) return Fail(added.error());
  return library;
}

// The error that the family text gives, or one that says that it gives none.
inline Error ErrorOf(const std::string& text) {
  const auto library = LibraryOf({{"tiny", text}});
  return library ? Error{ErrorKind::kInternal, "accepted", "accepted", "", ""} : library.error();
}

inline Result<FamilySpec> SpecOf(const std::string& text) {
  auto spec = ParseFamily(text, "tiny.toml", [](const std::vector<std::string>&) {
    return Result<FamilySpec>(Fail(ErrorKind::kInternal, "test", "it extends nothing"));
  });
  if (!spec) return spec;
  if (auto lint = LintFamily(*spec); !lint) return Fail(lint.error());
  return spec;
}

}  // namespace weighbridge
