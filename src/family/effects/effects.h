// What a model computes apart from its weights, as numbers, each under a name: the RoPE table and
// the mask of each layer, norms, the softmax scale, the router's formula, multipliers. Both sides
// of a conversion are resolved to fields of one vocabulary (Megatron-Core's names, and names for
// what it has no field for), and what is here makes effects of either; so two configs that spell an
// effect differently give equal ones. No I/O.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "family/effects/rope.h"
#include "family/effects/runtime.h"
#include "family/model.h"

namespace weighbridge {

// A value, and the fields that were read to make it.
struct Effect {
  nlohmann::json value;  // a number, a text, a truth value or a list; null: there is none of it
  std::vector<std::string> fields;
};
// By name. An effect that is not there is not known on that side, or this layer has no such part.
using Effects = std::map<std::string, Effect>;

struct Rope {
  Frequencies frequencies;  // empty: nothing is rotated
  double base = 0;          // of the plain table
  double factor = 1;        // multiplies q and k after the rotation
  std::vector<std::string> fields;
  // How the side's own library makes the table: "kind" ("plain", "linear", "llama3", "yarn",
  // "longrope", "proportional"), "base", "channels" and what the formula takes besides. For what
  // computes in another precision than double.
  nlohmann::json recipe;
};

// One side, resolved.
struct EffectSide {
  nlohmann::json fields;        // None is null; what is absent is not known
  std::set<std::string> given;  // what the config itself says, under the names above
  std::map<std::string, std::vector<std::string>> keys;  // field -> how the config calls it
  std::map<std::string, const Behaviour*> behaviours;    // field -> what gave it its value
  int64_t layers = 0;
  bool has_input_norm = true;  // of either side: the family's parameters say it
  bool has_post_norms = false;
  // The table of a layer; `windowed`: it sees only a window. kUnsupported for a kind that nothing
  // here computes.
  std::function<Result<Rope>(int64_t layer, bool windowed)> rope;
};

// Whether the family says what its config computes: that of a provider of Megatron Bridge does, of
// others `[effects]`.
bool HasEffects(const FamilySpec& spec);

// From the config.json that `model` was expanded with. Errors: kUnsupported when the family has no
// description of its effects.
Result<EffectSide> HfSide(const Model& model);

// From the fields of a Megatron config (formats/megatron_config), with what `runtime` is known to
// do. `hf` gives what the Megatron side has no field for and no behaviour says.
Result<EffectSide> MegatronSide(const nlohmann::json& fields, const Model& model,
                                const EffectSide& hf, const RuntimeTable& runtime,
                                const RuntimeChoice& choice);

// `layer` counts from 0; `windowed`: its rotation as of a layer with or without a window, whichever
// it is. Errors: those of EffectSide::rope.
Result<Effects> LayerEffects(const EffectSide& side, int64_t layer,
                             std::optional<bool> windowed = std::nullopt);
Effects WholeEffects(const EffectSide& side);

// Fields whose value is of another kind than what they mean, and the value as its config has it:
// "layernorm_epsilon" -> "rms_norm_eps is \"1e-6\"". They count as not said in effects, which is
// not to be taken for equal.
std::map<std::string, std::string> OddFields(const EffectSide& side);

// How the parts of a name in Effects are called in reports, and which cause a difference is.
struct EffectInfo {
  std::string_view name, cause, title;
  std::string_view module;  // where in a layer; empty: the layer
};
const EffectInfo* FindEffectInfo(std::string_view name);

}  // namespace weighbridge
