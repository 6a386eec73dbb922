// `weighbridge families list|show|expand|lint`: what is supported, and what a config must have on
// both sides.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/strings.h"
#include "cli/command.h"
#include "cli/lint_bridge.h"
#include "cli/model_input.h"
#include "engine/describe.h"
#include "family/library.h"
#include "family/model.h"
#include "family/shards.h"

namespace weighbridge::cli {
namespace {

using nlohmann::json;

struct FamiliesArguments {
  std::string name, config, dialect = "te";
  std::vector<std::string> files;
  ParallelGrid grid;
  bool as_json = false, as_markdown = false, without_mtp = false;
};

json ShapeJson(const Shape& shape) { return json(shape); }

// -- list --

struct ListRow {
  std::string family, kind, mapping, levels, quantization, architectures;
};

// A table of text, as wide as its longest entries.
std::string ListText(const std::vector<ListRow>& rows) {
  size_t family = 0, kind = 0, mapping = 0, levels = 0, quantization = 0;
  for (const ListRow& row : rows) {
    family = std::max(family, row.family.size());
    kind = std::max(kind, row.kind.size());
    mapping = std::max(mapping, row.mapping.size());
    levels = std::max(levels, row.levels.size());
    quantization = std::max(quantization, row.quantization.size());
  }
  std::string text;
  for (const ListRow& row : rows) {
    text += fmt::format("{:<{}}  {:<{}}  {:<{}}  {:<{}}  {:<{}}  {}\n", row.family, family,
                        row.kind, kind, row.mapping, mapping, row.levels, levels, row.quantization,
                        quantization, row.architectures);
  }
  return text;
}

// The page docs/family-table.md.
std::string ListMarkdown(const std::vector<ListRow>& rows) {
  std::string text =
      "# Model families\n\n"
      "Made by `weighbridge families list --markdown`. Mapping: \"bridge\" is a family of Megatron "
      "Bridge, \"own\" one\nthat it does not have, mapped by this project from what `transformers` "
      "writes and Megatron-Core builds. Levels: L0 names and shapes, L1 values, L2 the forward "
      "pass (`compare`; of "
      "models with towers the text model's). Quantization: as what its authors release it beside "
      "bf16.\n\n";
  for (size_t i = 0; i < rows.size(); ++i) {
    const ListRow& row = rows[i];
    text += fmt::format("| {} | {} | {} | {} | {} | {} |\n", row.family, row.kind, row.mapping,
                        row.levels, row.quantization, row.architectures);
    if (i == 0) text += "| --- | --- | --- | --- | --- | --- |\n";
  }
  return text;
}

Result<std::string> List(const FamiliesArguments& a) {
  WB_TRY(const FamilyLibrary library, LoadFamilies(a.files));
  json out = json::array();
  std::vector<ListRow> rows = {
      {"family", "kind", "mapping", "levels", "quantization", "architectures"}};
  WB_TRY(const auto* all, library.All());
  for (const auto& [name, spec] : *all) {
    std::vector<std::string> levels = {"L0", "L1"};
    if (HasForwardPass(spec)) levels.emplace_back("L2");
    out.push_back({{"family", name},
                   {"kind", spec.kind},
                   {"mapping", spec.mapping},
                   {"quantization", spec.quantization},
                   {"levels", levels},
                   {"architectures", spec.hf_architectures},
                   {"model_types", spec.hf_model_types},
                   {"origin", spec.origin}});
    rows.push_back(
        {name, spec.kind, spec.mapping, fmt::format("{}", fmt::join(levels, " ")),
         spec.quantization.empty() ? "-" : fmt::format("{}", fmt::join(spec.quantization, " ")),
         fmt::format("{}", fmt::join(spec.hf_architectures, ", "))});
  }
  if (a.as_json) return out.dump(2) + "\n";
  return a.as_markdown ? ListMarkdown(rows) : ListText(rows);
}

// -- show --

std::string StorageText(const HfStorage& storage) {
  std::string text = fmt::format("{}", fmt::join(storage.names, " + "));
  if (storage.transform != "identity") text += fmt::format("  [{}", storage.transform);
  for (const auto& [option, value] : storage.options) text += fmt::format(" {}={}", option, value);
  return storage.transform == "identity" ? text : text + "]";
}

json ParamJson(const ParamRule& rule) {
  json storage = json::array();
  for (const HfStorage& s : rule.storage) {
    storage.push_back({{"hf", s.names}, {"transform", s.transform}, {"options", s.options}});
  }
  return {{"stack", rule.stacks},    {"place", rule.place},       {"layers", rule.layers},
          {"experts", rule.experts}, {"megatron", rule.megatron}, {"local", rule.local},
          {"storage", storage},      {"shape", rule.shape},       {"tp", rule.tp},
          {"op", rule.op},           {"when", rule.when},         {"unless", rule.unless}};
}

Result<std::string> Show(const FamiliesArguments& a) {
  std::vector<std::string> files = a.files;
  if (IsFamilyFile(a.name)) files.push_back(a.name);
  WB_TRY(const FamilyLibrary library, LoadFamilies(files));
  WB_TRY(const FamilySpec* spec, ChosenFamily(library, a.name));
  if (a.as_json) {
    json params = json::array();
    for (const ParamRule& rule : spec->params) params.push_back(ParamJson(rule));
    const json out = {{"family", spec->name},
                      {"kind", spec->kind},
                      {"mapping", spec->mapping},
                      {"origin", spec->origin},
                      {"extends", spec->extends},
                      {"quantization", spec->quantization},
                      {"architectures", spec->hf_architectures},
                      {"params", params}};
    return out.dump(2) + "\n";
  }
  std::string text = fmt::format(
      "{} ({}), {} <-> {}\n  mapping: {}, from {}{}\n", spec->name, spec->kind,
      fmt::join(spec->hf_architectures, ", "), spec->megatron_model, spec->mapping, spec->origin,
      spec->extends.empty() ? "" : fmt::format(", extends {}", fmt::join(spec->extends, ", ")));
  if (!spec->quantization.empty()) {
    text += fmt::format("  released as {} beside bf16\n", fmt::join(spec->quantization, ", "));
  }
  for (const ParamRule& rule : spec->params) {
    std::string condition;
    if (!rule.layers.empty())
      condition += fmt::format("  layers: {}", fmt::join(rule.layers, " and "));
    if (!rule.when.empty()) condition += fmt::format("  when {}", rule.when);
    if (!rule.unless.empty()) condition += fmt::format("  unless {}", rule.unless);
    text += fmt::format("\n{}{}  [{}]  {}{}\n", rule.stacks.empty() ? "" : rule.stacks[0] + ": ",
                        rule.megatron, fmt::join(rule.shape, ", "), rule.tp, condition);
    if (!rule.local.empty()) text += fmt::format("    local spec: {}\n", rule.local);
    for (const HfStorage& s : rule.storage) text += fmt::format("    {}\n", StorageText(s));
  }
  return text;
}

// -- expand --

std::string CutText(const Parameter& p) {
  if (p.cut.replicated()) return "replicated";
  std::string text = p.cut.axis == 0 ? "column" : "row";
  if (!p.cut.components.empty()) text += fmt::format(" [{}]", fmt::join(p.cut.components, "+"));
  return p.is_expert() ? text + " (etp)" : text;
}

Result<json> ExpandJson(const Model& model, const Placement& placement, Dialect dialect) {
  json params = json::array();
  for (const PlacedParameter& placed : placement.parameters()) {
    const Parameter& p = *placed.parameter;
    WB_TRY(const TransformPlan plan, model.Plan(p));
    json hf = json::array();
    for (size_t i = 0; i < p.hf.size(); ++i) {
      hf.push_back({{"name", p.hf[i]}, {"shape", ShapeJson(plan.sources[i].shape)}});
    }
    const int ranks = p.cut.replicated() ? 1 : placement.GroupSize(p);
    WB_RETURN_IF_ERROR(CheckCut(p.shape, p.cut, ranks));
    params.push_back(
        {{"megatron", placed.copy_as.empty() ? model.MegatronName(p, dialect) : placed.copy_as},
         {"rank_name", placement.RankName(placed, dialect)},
         {"shape", ShapeJson(p.shape)},
         {"local_shape", ShapeJson(CutShape(p.shape, p.cut, ranks))},
         {"cut", CutText(p)},
         {"dtype", p.rule->dtype ? json(ShortName(*p.rule->dtype)) : json()},
         {"transform", p.storage->transform},
         {"op", ToString(p.op)},
         {"pp", placed.pp},
         {"vpp", placed.vpp},
         {"ep", placed.ep},
         {"hf", std::move(hf)}});
  }
  json config = json::object();
  for (const Field& field : model.config()) config[field.name] = field.value;
  json kinds = json::object();
  for (const auto& [group, list] : model.layer_kinds()) kinds[group] = list;
  return json{{"family", model.spec().name}, {"grid", ToString(placement.grid())},
              {"dims", model.dims()},        {"layer_kinds", std::move(kinds)},
              {"config", std::move(config)}, {"params", std::move(params)}};
}

std::string ExpandText(const json& expanded) {
  std::string text = fmt::format("family {}, {}\n\n", expanded["family"].get<std::string>(),
                                 expanded["grid"].get<std::string>());
  text += "Megatron config\n";
  for (const auto& [name, value] : expanded["config"].items()) {
    text += fmt::format("  {:<42} {}\n", name, value.dump());
  }
  text += fmt::format("\n{} Megatron tensors\n", expanded["params"].size());
  for (const json& p : expanded["params"]) {
    text += fmt::format("  {}  {}  {}  pp {}{}\n", p["megatron"].get<std::string>(),
                        p["shape"].dump(), p["cut"].get<std::string>(), p["pp"].get<int>(),
                        p["ep"].get<int>() > 0 ? fmt::format(" ep {}", p["ep"].get<int>()) : "");
    for (const json& hf : p["hf"]) {
      text += fmt::format("      <- {} {}  {}\n", hf["name"].get<std::string>(), hf["shape"].dump(),
                          p["transform"].get<std::string>());
    }
  }
  return text;
}

Result<std::string> Expand(const FamiliesArguments& a) {
  WB_TRY(const FamilyLibrary library, LoadFamilies(a.files));
  WB_TRY(const json config, ReadConfig(a.config));
  const FamilySpec* spec = nullptr;
  if (a.name.empty()) {
    WB_TRY(spec, library.ForConfig(config));
  } else {
    WB_TRY(spec, library.Find(a.name));
  }
  ExpandOptions options;
  options.tp = a.grid.tp;
  options.without_mtp = a.without_mtp;
  WB_TRY(const Model model, Model::Expand(*spec, config, options));
  WB_TRY(const Placement placement, Placement::Create(model, a.grid));
  WB_TRY(const json expanded,
         ExpandJson(model, placement, a.dialect == "local" ? Dialect::kLocal : Dialect::kTe));
  return a.as_json ? expanded.dump(2) + "\n" : ExpandText(expanded);
}

// -- lint --

Result<std::string> Lint(const FamiliesArguments& a) {
  WB_TRY(const FamilyLibrary library, LoadFamilyOptions(a.files));
  if (a.files.empty()) {
    WB_TRY(const auto* all, library.All());
    return fmt::format("{} families, no fault found\n", all->size());
  }
  for (const std::string& name : a.files) {
    if (!IsFamilyFile(name)) WB_RETURN_IF_ERROR(library.Find(name));
  }
  return fmt::format("{}: no fault found\n", fmt::join(a.files, ", "));
}

void AddAction(CLI::App& parent, Context& context, std::shared_ptr<FamiliesArguments> a,
               const std::string& name, const std::string& what,
               Result<std::string> (*action)(const FamiliesArguments&),
               const std::function<void(CLI::App&)>& options) {
  CLI::App* command = parent.add_subcommand(name, what);
  options(*command);
  command->callback([&context, a, action] {
    const Result<std::string> text = action(*a);
    context.exit_status = text ? PrintStdout(*text) : PrintError(text.error());
  });
}

// Of family files, or with --bridge of a bridge in Python.
void AddLint(CLI::App& families, Context& context, const std::shared_ptr<FamiliesArguments>& a) {
  CLI::App* command =
      families.add_subcommand("lint", "checks family files, or a bridge in Python (--bridge)");
  const auto bridge = std::make_shared<LintBridgeArguments>();
  CLI::Option* names = command->add_option(
      "NAME", a->files, "family files, or names of families; default: all families");
  AddLintBridgeOptions(*command, context, *bridge);
  command->get_option("--bridge")->excludes(names);
  command->callback([&context, a, bridge] {
    if (!bridge->bridge.empty()) {
      context.exit_status = LintBridge(context, *bridge);
      return;
    }
    const Result<std::string> text = Lint(*a);
    context.exit_status = text ? PrintStdout(*text) : PrintError(text.error());
  });
}

// A family file drafted from a bridge in Python, on stdout.
void AddFromBridge(CLI::App& families, Context& context) {
  CLI::App* command = families.add_subcommand(
      "from-bridge", "drafts a family file from a bridge in Python, on standard output");
  const auto file = std::make_shared<std::string>();
  const auto name = std::make_shared<std::string>("drafted");
  command->add_option("FILE", *file, "a bridge as weighbridge.inspect_bridge wrote it down")
      ->required();
  command->add_option("--name", *name, "the family's name")->capture_default_str();
  command->callback([&context, file, name] {
    const Result<std::string> text = DraftFromBridge(*file, *name);
    context.exit_status = text ? PrintStdout(*text) : PrintError(text.error());
  });
}

}  // namespace

void AddFamilies(CLI::App& app, Context& context) {
  CLI::App* families = app.add_subcommand(
      "families", "model families: what is supported, and every tensor that a config must have");
  families->require_subcommand(1);
  const auto a = std::make_shared<FamiliesArguments>();
  const auto common = [a](CLI::App& c) {
    AddFamilyOption(c, a->files, /*names=*/false);
    c.add_flag("--json", a->as_json, "print JSON; default: text")->group("Output");
  };
  AddAction(*families, context, a, "list", "the families", List, [&](CLI::App& c) {
    common(c);
    c.add_flag("--markdown", a->as_markdown, "print a page of docs; default: text")
        ->group("Output")
        ->excludes("--json");
  });
  AddAction(*families, context, a, "show", "the rules of one family", Show, [&](CLI::App& c) {
    c.add_option("NAME", a->name, "a family's name, or a family file")->required();
    common(c);
  });
  AddAction(
      *families, context, a, "expand",
      "every tensor (name, shape, transform, cut) that a config.json must have on both sides",
      Expand, [&](CLI::App& c) {
        c.add_option("NAME", a->name, "a family's name; default: what the config names");
        c.add_option("--config", a->config, "an HF config.json")->type_name("FILE")->required();
        c.add_option("--dialect", a->dialect, "Megatron's module spec: te or local")
            ->check(CLI::IsMember({"te", "local"}))
            ->capture_default_str();
        c.add_flag("--without-mtp", a->without_mtp, "leave MTP layers out; default: off");
        AddGridOptions(c, a->grid);
        common(c);
      });
  AddLint(*families, context, a);
  AddFromBridge(*families, context);
  AddExamples(*families, {"weighbridge families list", "weighbridge families show qwen3_moe",
                          "weighbridge families expand --config ./config.json --tp 2 --pp 2",
                          "weighbridge families lint my_family.toml",
                          "weighbridge families lint --bridge my_bridge.json"});
}

}  // namespace weighbridge::cli
