#include "checks/bridge_draft.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "checks/mapping_classes.h"
#include "checks/rule_code.h"

namespace weighbridge {
namespace {

using nlohmann::json;

constexpr std::string_view kStackMegatron = "decoder.layers.*.";
constexpr std::string_view kStackHf = "model.layers.*.";

// What base_gpt and base_gqa give every model, whatever its flags say.
constexpr std::array<std::string_view, 7> kInherited = {
    "self_attention.linear_qkv.layer_norm_weight",
    "self_attention.linear_qkv.weight",
    "self_attention.linear_proj.weight",
    "mlp.linear_fc1.layer_norm_weight",
    "mlp.linear_fc1.weight",
    "mlp.linear_fc2.weight",
    "decoder.final_layernorm.weight"};

struct Drafted {
  const RegistryRule* rule = nullptr;
  std::string local;          // the name of a later rule that reads the same
  std::vector<Shape> shapes;  // of one set of the HF tensors
  std::set<std::string> in;   // layers, by number
  bool experts = false;
};

std::optional<int64_t> IntegerOf(const json& config, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const auto at = config.find(key);
    if (at != config.end() && at->is_number_integer()) return at->get<int64_t>();
  }
  return std::nullopt;
}

// A size as an expression over dims; those that explain it in the order of their likelihood.
class Sizes {
 public:
  explicit Sizes(const json& config) {
    const auto add = [&](const char* text, std::optional<int64_t> value) {
      if (value && *value > 0) known_.emplace_back(text, *value);
    };
    const auto hidden = IntegerOf(config, {"hidden_size"});
    const auto heads = IntegerOf(config, {"num_attention_heads"});
    const auto groups =
        config.contains("num_key_value_heads") ? IntegerOf(config, {"num_key_value_heads"}) : heads;
    auto head_dim = IntegerOf(config, {"head_dim"});
    if (!head_dim && hidden && heads && *heads > 0) head_dim = *hidden / *heads;
    const auto moe = IntegerOf(config, {"moe_intermediate_size"});
    add("hidden", hidden);
    add("ffn", IntegerOf(config, {"intermediate_size"}));
    add("moe_ffn", moe);
    add("vocab", IntegerOf(config, {"vocab_size"}));
    add("head_dim", head_dim);
    if (heads && groups && head_dim) {
      add("heads * head_dim", *heads * *head_dim);
      add("(heads + 2 * groups) * head_dim", (*heads + 2 * *groups) * *head_dim);
    }
    add("experts", IntegerOf(config, {"num_experts", "num_local_experts", "n_routed_experts"}));
  }

  std::string Text(int64_t size, std::string_view likely) const {
    for (const auto& [text, value] : known_) {
      if (text == likely && value == size) return text;
    }
    for (const auto& [text, value] : known_) {
      if (value == size) return text;
    }
    return fmt::format("{}", size);
  }

 private:
  std::vector<std::pair<std::string, int64_t>> known_;
};

bool Ends(const std::string& text, std::initializer_list<std::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(),
                     [&](std::string_view end) { return text.ends_with(end); });
}

std::string_view CutOf(const RegistryRule& rule, const MappingClass* known) {
  if (known != nullptr && known->cut == MappingCut::kColumn) return "column";
  if (known != nullptr && known->cut == MappingCut::kRow) return "row";
  if (known != nullptr && known->cut == MappingCut::kReplicated) return "replicated";
  std::string name = rule.megatron;
  while (name.ends_with('*')) name.pop_back();
  if (Ends(name, {"linear_qkv.weight", "linear_qkv.bias", "linear_fc1.weight", "linear_fc1.bias",
                  "word_embeddings.weight", "output_layer.weight"})) {
    return "column";
  }
  return Ends(name, {"linear_proj.weight", "linear_fc2.weight"}) ? "row" : "replicated";
}

class Draft {
 public:
  Draft(const BridgeDump& dump, std::string name)
      : dump_(dump), name_(std::move(name)), sizes_(dump.config) {}

  std::string Text() {
    Collect();
    std::string text = Head();
    for (const Drafted& drafted : drafted_) text += Param(drafted);
    if (!left_out_.empty()) {
      text += "\n# CHECK: rules outside of the decoder, which are not drafted:\n";
      for (const std::string& rule : left_out_) text += "# " + rule + "\n";
    }
    return text;
  }

 private:
  // Rules that read what is there; of several that read the same the first, which is the one that
  // Megatron's default spec meets.
  void Collect() {
    std::map<std::vector<std::string>, size_t> by_hf;
    for (const RegistryRule& rule : dump_.rules) {
      Drafted drafted{.rule = &rule};
      if (!FindTensors(drafted)) continue;
      std::vector<std::string> hf;
      for (const auto& [role, pattern] : rule.hf) hf.push_back(pattern);
      const auto [at, is_new] = by_hf.emplace(hf, drafted_.size());
      if (!is_new) {
        if (drafted_[at->second].local.empty()) drafted_[at->second].local = rule.megatron;
        continue;
      }
      const bool outer = rule.megatron.find('*') == std::string::npos;
      if (!outer && !rule.megatron.starts_with(kStackMegatron)) {
        left_out_.push_back(rule.Text());
        by_hf.erase(at);
        continue;
      }
      drafted_.push_back(std::move(drafted));
    }
  }

  // False for what reads nothing that is there, or raised when it was inspected.
  bool FindTensors(Drafted& drafted) const {
    if (drafted.rule->hf.empty() || !drafted.rule->raised.empty()) return false;
    for (const auto& [role, pattern] : drafted.rule->hf) {
      const Shape* shape = nullptr;
      for (const DumpedTensor& tensor : *dump_.hf) {
        const auto captures = MatchRule(pattern, tensor.name);
        if (!captures) continue;
        shape = &tensor.shape;
        if (!captures->empty()) drafted.in.insert(captures->front());
      }
      if (shape == nullptr) return false;
      drafted.shapes.push_back(*shape);
    }
    const std::string& name = drafted.rule->megatron;
    drafted.experts = std::count(name.begin(), name.end(), '*') > 1;
    return true;
  }

  std::string Head() const {
    std::string text = fmt::format(
        "# Drafted by `weighbridge families from-bridge` of {}. Look at each CHECK, then run "
        "`weighbridge families\n# lint` on this file, and `weighbridge families lint --bridge` "
        "with it.\n"
        "schema = 1\nfamily = {}\nkind = \"drafted\"\nextends = [\"base_gpt\", \"base_gqa\"]\n",
        dump_.bridge, json(name_).dump());
    text += fmt::format("hf_architectures = {}\n",
                        dump_.config.value("architectures", json::array()).dump());
    if (dump_.config.contains("model_type")) {
      text += fmt::format("hf_model_types = [{}]\n", dump_.config["model_type"].dump());
    }
    text +=
        "# CHECK: flags, layer kinds and config fields are those of base_gpt and base_gqa; `lint "
        "--bridge` names what\n# the bridge's provider has otherwise.\n";
    if (Has("self_attention.q_layernorm.weight")) {
      text += "\n[flags]\nqk_norm = { value = \"true\" }\n";
    }
    return text + Dims() + Removed();
  }

  // Whether a rule of the decoder, or outside of layers, was drafted for `name`.
  bool Has(std::string_view name) const {
    return std::any_of(drafted_.begin(), drafted_.end(), [&](const Drafted& d) {
      return d.rule->megatron == name ||
             d.rule->megatron == std::string(kStackMegatron) + std::string(name);
    });
  }

  std::string Dims() const {
    std::string text;
    if (dump_.config.contains("moe_intermediate_size")) {
      text += "moe_ffn = \"moe_intermediate_size\"\n";
    }
    for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
      if (dump_.config.contains(key)) {
        text += fmt::format("experts = \"{}\"\n", key);
        break;
      }
    }
    return text.empty() ? "" : "\n[dims]\n" + text;
  }

  std::string Removed() const {
    std::vector<std::string> names;
    for (const std::string_view inherited : kInherited) {
      if (!Has(inherited)) names.push_back(json(inherited).dump());
    }
    return names.empty() ? "" : fmt::format("\n[remove]\nparams = [{}]\n", fmt::join(names, ", "));
  }

  // "*" as braces, without the beginning that the stack has.
  static std::string Braces(std::string name, std::string_view prefix) {
    bool layer = name.starts_with(prefix);
    if (layer) name.erase(0, prefix.size());
    for (size_t at = name.find('*'); at != std::string::npos; at = name.find('*')) {
      name.replace(at, 1, layer ? "{expert}" : "{layer}");
      layer = true;
    }
    return name;
  }

  std::string Param(const Drafted& d) const {
    const RegistryRule& rule = *d.rule;
    const bool outer = rule.megatron.find('*') == std::string::npos;
    const MappingClass* known = KnownClassOf(rule);
    std::string text = fmt::format("\n# {}\n", rule.Text());
    if (known == nullptr) text += "# CHECK: the class converts by code of its own\n";
    text += LayersOf(d);
    text += "[[param]]\n";
    text += outer ? fmt::format("place = \"{}\"\n",
                                rule.megatron.starts_with("embedding.") ? "first" : "last")
                  : "stack = \"decoder\"\n";
    if (d.experts) text += "experts = \"experts\"\n";
    text += fmt::format("megatron = {}\n", json(Braces(rule.megatron, kStackMegatron)).dump());
    if (!d.local.empty()) {
      text += fmt::format("local = {}\n", json(Braces(d.local, kStackMegatron)).dump());
    }
    text += fmt::format("hf = {}\n", HfNames(rule, known));
    return text + ShapeAndTransform(d, known);
  }

  // Of a parameter that not every layer has.
  std::string LayersOf(const Drafted& d) const {
    const auto layers = IntegerOf(dump_.config, {"num_hidden_layers"});
    if (d.in.empty() || !layers || static_cast<int64_t>(d.in.size()) == *layers) return "";
    return fmt::format("# CHECK: only layers {} have it: say so with [layer_kinds] and `layers`\n",
                       fmt::join(d.in, ", "));
  }

  static std::string HfNames(const RegistryRule& rule, const MappingClass* known) {
    std::vector<std::string> names;
    for (const auto& [role, pattern] : InOrder(rule, known)) {
      names.push_back(json(Braces(pattern, kStackHf)).dump());
    }
    return names.size() == 1 ? names[0] : fmt::format("[{}]", fmt::join(names, ", "));
  }

  static RuleSources InOrder(const RegistryRule& rule, const MappingClass* known) {
    if (known == nullptr || known->roles.size() != rule.hf.size()) return rule.hf;
    RuleSources ordered;
    for (const std::string_view role : known->roles) {
      for (const auto& source : rule.hf) {
        if (source.first == role) ordered.push_back(source);
      }
    }
    return ordered;
  }

  std::string ShapeAndTransform(const Drafted& d, const MappingClass* known) const {
    const bool vocab = Ends(d.rule->megatron, {"word_embeddings.weight", "output_layer.weight"});
    Shape shape = d.shapes[0];
    if (d.shapes.size() > 1 && !shape.empty()) {
      shape[0] = 0;
      for (const Shape& part : d.shapes) shape[0] += part.empty() ? 0 : part[0];
    }
    const bool gated =
        known != nullptr && known->roles.size() == 2 && known->roles[0] == "gate" && !shape.empty();
    std::vector<std::string> extents;
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      const bool into = axis == 1 && d.rule->megatron.ends_with("linear_proj.weight");
      std::string text = gated && axis == 0 ? "2 * " + sizes_.Text(shape[0] / 2, "")
                         : vocab && axis == 0
                             ? "padded_vocab"
                             : sizes_.Text(shape[axis], into ? "heads * head_dim"
                                                        : axis == 0 && d.shapes.size() == 3
                                                            ? "(heads + 2 * groups) * head_dim"
                                                            : "");
      extents.push_back(json(text).dump());
    }
    std::string text = fmt::format("shape = [{}]\n", fmt::join(extents, ", "));
    const std::string_view transform = vocab              ? "pad_vocab"
                                       : known == nullptr ? "identity"
                                                          : known->transforms[0];
    if (d.rule->permute_dims == std::vector<int64_t>{1, 0}) {
      text += "transform = { name = \"identity\", transposed = true }\n";
    } else if (transform != "identity") {
      text += fmt::format("transform = \"{}\"\n", transform);
    }
    if (known != nullptr && known->op != Op::kNone) {
      text += fmt::format("op = \"{}\"\n", ToString(known->op));
    }
    const std::string_view cut = CutOf(*d.rule, known);
    if (cut != "replicated") text += fmt::format("tp = \"{}\"\n", cut);
    if (gated) {
      const std::string half = json(sizes_.Text(shape[0] / 2, "")).dump();
      text += fmt::format("components = [{}, {}]\n", half, half);
    }
    return text;
  }

  const BridgeDump& dump_;
  const std::string name_;
  const Sizes sizes_;
  std::vector<Drafted> drafted_;
  std::vector<std::string> left_out_;
};

}  // namespace

Result<std::string> DraftFamily(const BridgeDump& dump, const std::string& name) {
  if (!dump.hf) {
    return Fail(ErrorKind::kUsage, "inventory-missing",
                "the dump lacks the names and shapes of the Hugging Face side", "",
                "give hf= to inspect_bridge: a checkpoint or a state dict");
  }
  return Draft(dump, name).Text();
}

}  // namespace weighbridge
