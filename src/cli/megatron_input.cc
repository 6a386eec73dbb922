#include "cli/megatron_input.h"

#include <fmt/format.h>

#include <utility>

#include "base/strings.h"
#include "checks/megatron_binding.h"
#include "formats/megatron_config/run_config.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

// Without --like and --config: the model that run_config.yaml names, when it is on this machine.
Status FindSource(MegatronInput& input) {
  WB_TRY(const auto run_config, ReadRunConfig(input.checkpoint->path() / kRunConfigName));
  const std::string model = run_config ? run_config->HfModel() : "";
  if (!model.empty() && ResolveModelPath(model)) {
    input.like_name = model;
    input.notes.push_back(
        fmt::format("config, tokenizer and dtypes are those of {}, which {} names as the source",
                    ToPrintable(model), kRunConfigName));
    return {};
  }
  const std::string why = model.empty() ? ""
                                        : fmt::format("; {} names {}, which is not on this machine",
                                                      kRunConfigName, ToPrintable(model));
  return Fail(ErrorKind::kUsage, "usage",
              "say which model it is, by its Hugging Face config: --like or --config" + why, "",
              "for example: --like ./Llama-3.2-1B, or --config ./Llama-3.2-1B/config.json");
}

Status TakeLike(const MegatronArguments& a, MegatronInput& input) {
  WB_TRY(input.like, OpenModelInput(input.like_name, a.families, a.config));
  input.family = input.like->family;
  input.config = input.like->config;
  input.config_file = input.like->files.front();
  return {};
}

Status TakeConfig(const MegatronArguments& a, MegatronInput& input) {
  WB_TRY(input.families, LoadFamilyOptions(a.families));
  WB_TRY(input.config, ReadConfig(a.config));
  WB_TRY(input.family, input.families.ForConfig(input.config));
  input.config_file = a.config;
  return {};
}

}  // namespace

CommandInputs MegatronArguments::Inputs() const {
  CommandInputs inputs{{megatron, like}, families};
  inputs.files.push_back(config);
  return inputs;
}

void AddMegatronModelOptions(CLI::App& command, MegatronArguments& arguments,
                             const std::string& what) {
  command
      .add_option("--like", arguments.like,
                  fmt::format("the Hugging Face model {}; default: the one that run_config.yaml "
                              "names",
                              what))
      ->type_name("HF")
      ->group("Model");
  command
      .add_option("--config", arguments.config,
                  "another config.json of Hugging Face; default: that of --like")
      ->type_name("FILE")
      ->group("Model");
  AddFamilyOption(command, arguments.families);
}

Result<std::unique_ptr<MegatronInput>> OpenMegatronInput(const MegatronArguments& arguments) {
  auto input = std::make_unique<MegatronInput>();
  WB_TRY(input->checkpoint, OpenMegatron(arguments.megatron));
  input->like_name = arguments.like;
  if (arguments.like.empty() && arguments.config.empty()) WB_RETURN_IF_ERROR(FindSource(*input));
  if (input->like_name.empty()) {
    WB_RETURN_IF_ERROR(TakeConfig(arguments, *input));
  } else {
    WB_RETURN_IF_ERROR(TakeLike(arguments, *input));
  }
  return input;
}

Result<Model> ExpandModel(MegatronInput& input, bool without_mtp) {
  ExpandOptions expand;
  if (const Checkpoint* original = input.Original()) {
    expand.has = [original](const std::string& name) { return original->Find(name) != nullptr; };
  }
  expand.without_mtp = without_mtp;
  return ExpandAsStored(*input.family, input.config, std::move(expand), input.checkpoint);
}

}  // namespace weighbridge::cli
