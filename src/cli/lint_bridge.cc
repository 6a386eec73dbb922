#include "cli/lint_bridge.h"

#include <filesystem>
#include <set>
#include <system_error>

#include "base/json.h"
#include "checks/bridge_draft.h"
#include "checks/bridge_dump.h"
#include "checks/bridge_lint.h"
#include "checks/inventory_lint.h"
#include "cli/model_input.h"
#include "family/effects/runtime.h"

namespace weighbridge::cli {
namespace {

// The family that --family names, else the one of the config; nullptr: none describes the model.
Result<const FamilySpec*> FamilyOf(const FamilyLibrary& library, const LintBridgeArguments& a,
                                   const nlohmann::json& config) {
  if (!a.families.empty()) return ChosenFamily(library, a.families.back());
  Result<const FamilySpec*> found = library.ForConfig(config);
  if (!found && found.error().id == "unknown-family") return nullptr;
  return found;
}

Result<Report> Judge(const LintBridgeArguments& a) {
  WB_TRY(const nlohmann::json document, ReadJsonFile(a.bridge));
  WB_TRY(const BridgeDump dump, ParseBridgeDump(document));
  WB_TRY(const RuntimeChoice runtime, ParseRuntime(a.runtime));
  WB_TRY(const FamilyLibrary library, LoadFamilyOptions(a.families));
  WB_TRY(const FamilySpec* family, FamilyOf(library, a, dump.config));
  if (family == nullptr) return LintInventories(dump);
  std::set<std::string> there;
  if (dump.hf) {
    for (const DumpedTensor& tensor : *dump.hf) there.insert(tensor.name);
  }
  ExpandOptions expand;
  expand.has = [&](const std::string& name) {
    return dump.hf ? there.contains(name) : HasRuleFor(dump, name);
  };
  WB_TRY(const Model model, Model::Expand(*family, dump.config, expand));
  return LintBridge(model, dump, runtime);
}

}  // namespace

void AddLintBridgeOptions(CLI::App& command, Context& context, LintBridgeArguments& arguments) {
  command
      .add_option("--bridge", arguments.bridge,
                  "judge this bridge in Python, as weighbridge.inspect_bridge wrote it down")
      ->type_name("FILE")
      ->group("Bridge");
  command
      .add_option("--runtime", arguments.runtime,
                  "whose hidden behaviour counts where configs are compared: none, or "
                  "megatron-core==VERSION; default: the newest known")
      ->type_name("RUNTIME")
      ->group("Bridge");
  AddFamilyOption(command, arguments.families);
  AddOutputOptions(command, context);
}

Result<std::string> DraftFromBridge(const std::string& bridge, const std::string& name) {
  WB_TRY(const nlohmann::json document, ReadJsonFile(bridge));
  WB_TRY(const BridgeDump dump, ParseBridgeDump(document));
  return DraftFamily(dump, name);
}

int LintBridge(Context& context, const LintBridgeArguments& a) {
  CommandInputs inputs{{}, a.families};
  inputs.files.push_back(a.bridge);
  return RunCheck(context, "families lint", "L0", inputs, [&]() -> Result<Report> {
    WB_TRY(Report report, Judge(a));
    std::error_code error;
    report.inputs.push_back(
        {a.bridge, std::filesystem::file_size(a.bridge, error), "", std::nullopt});
    return report;
  });
}

}  // namespace weighbridge::cli
