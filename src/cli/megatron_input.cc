#include "cli/megatron_input.h"

#include <fmt/format.h>

#include <set>
#include <utility>

#include "base/strings.h"
#include "checks/inventory.h"
#include "checks/megatron_binding.h"
#include "checks/megatron_config_check.h"
#include "checks/source_config.h"
#include "cli/conversion.h"
#include "formats/megatron_config/megatron_config.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

// Without --like and --config: the model that run_config.yaml names, when it is on this machine.
void FindSource(const MegatronConfig* megatron, MegatronInput& input) {
  if (megatron == nullptr || megatron->hf_model.empty()) return;
  // A relative path means another folder wherever the command is run.
  std::error_code error;
  const fs::path path(megatron->hf_model);
  if (path.is_relative() && fs::exists(path, error)) return;
  if (!ResolveModelPath(megatron->hf_model)) return;
  input.like_name = megatron->hf_model;
  input.notes.push_back(
      fmt::format("config, tokenizer and dtypes are those of {}, which {} names as the source",
                  ToPrintable(megatron->hf_model), megatron->origin));
}

// The family that --family means; nullptr without it.
Result<const FamilySpec*> FamilyAskedFor(const MegatronArguments& a, const FamilyLibrary& library) {
  if (a.families.empty()) return nullptr;
  return ChosenFamily(library, a.families.back());
}

Status Derive(const MegatronArguments& a, const MegatronConfig* megatron, MegatronInput& input) {
  if (megatron == nullptr) {
    return Fail(ErrorKind::kUsage, "usage",
                fmt::format("say which model it is, by its Hugging Face config: --like or "
                            "--config; the checkpoint has neither {} nor saved arguments",
                            kRunConfigName),
                "", "for example: --like ./Llama-3.2-1B, or --config ./Llama-3.2-1B/config.json");
  }
  WB_TRY(input.families, LoadFamilyOptions(a.families));
  WB_TRY(const FamilySpec* chosen, FamilyAskedFor(a, input.families));
  WB_TRY(SourceConfig source,
         DeriveSourceConfig(input.families, chosen, *megatron, *input.checkpoint));
  input.family = source.family;
  input.config = std::move(source.config);
  input.notes.insert(input.notes.end(), source.notes.begin(), source.notes.end());
  return {};
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
  WB_RETURN_IF_ERROR(input.families.CheckModelType(*input.family, input.config));
  input.config_file = a.config;
  return {};
}

// A config that was given is the one that counts; where it contradicts the checkpoint's own in what
// shapes weights, the two are of different models.
Status CompareWithGiven(const MegatronConfig& megatron, MegatronInput& input) {
  const auto stored = ExpandAsStored(*input.family, input.config, {}, Borrowed(*input.checkpoint));
  if (!stored) return {};  // said where the model is needed
  for (const FieldDifference& d : CompareFields(stored->model, megatron)) {
    const std::string cause = SizeCause(d.field);
    if (!cause.empty()) {
      return Corrupt(cause, Describe(d, megatron), input.config_file.string(),
                     "the two are of different models; `weighbridge verify` lists what differs");
    }
    input.notes.push_back(Describe(d, megatron));
  }
  return {};
}

// The source that the checkpoint names counts only when it is there and of the same model. What it
// says of itself is forgotten otherwise: the config is derived then.
bool TakeGuess(const MegatronArguments& a, const MegatronConfig& megatron, MegatronInput& input) {
  const std::vector<std::string> notes = input.notes;
  Status taken = TakeLike(a, input);
  if (taken) taken = CompareWithGiven(megatron, input);
  if (taken) return true;
  input.notes = notes;
  input.notes.pop_back();
  input.notes.push_back(fmt::format("{}, which {} names as the source, is not used: {}",
                                    ToPrintable(input.like_name), megatron.origin,
                                    taken.error().what));
  input.like.reset();
  input.like_name.clear();
  input.family = nullptr;
  input.config = nullptr;
  input.config_file.clear();
  return false;
}

// The names that the weights of `original` have where they are stored plain.
HasTensor HasPlain(const Checkpoint& original) {
  std::set<std::string> names;
  for (const TensorInfo& t : original.tensors()) {
    const QuantizedTensor* q = original.Quantized(t);
    names.insert(q != nullptr ? q->plain_name : t.name);
  }
  return [names = std::move(names)](const std::string& name) { return names.contains(name); };
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
  const bool given = !arguments.like.empty() || !arguments.config.empty();
  const auto recorded = ReadMegatronConfig(*input->checkpoint);
  if (!recorded && !given) return Fail(recorded.error());
  if (!recorded) input->notes.push_back("the checkpoint's own config: " + recorded.error().what);
  const MegatronConfig* megatron = recorded && *recorded ? &**recorded : nullptr;
  if (!given) FindSource(megatron, *input);
  if (!given && !input->like_name.empty()) {
    if (TakeGuess(arguments, *megatron, *input)) return input;
  }
  if (!input->like_name.empty()) {
    WB_RETURN_IF_ERROR(TakeLike(arguments, *input));
  } else if (given) {
    WB_RETURN_IF_ERROR(TakeConfig(arguments, *input));
  } else {
    WB_RETURN_IF_ERROR(Derive(arguments, megatron, *input));
    return input;
  }
  if (megatron != nullptr) WB_RETURN_IF_ERROR(CompareWithGiven(*megatron, *input));
  return input;
}

Result<Model> ExpandModel(MegatronInput& input, bool without_mtp) {
  ExpandOptions expand;
  if (const Checkpoint* original = input.Original()) {
    ChooseStorageBy(*original, expand);
    if (input.plain_weights) expand.has = HasPlain(*original);
  }
  expand.without_mtp = without_mtp;
  return ExpandAsStored(*input.family, input.config, std::move(expand), input.checkpoint);
}

Result<SourceFiles> LookAtSources(const MegatronInput& input,
                                  const std::vector<std::string>& families) {
  const fs::path& folder = input.checkpoint->path();
  std::vector<fs::path> files;
  for (const FileInfo& file : input.checkpoint->identity()) files.push_back(file.path);
  for (const std::string& name : input.checkpoint->metadata().files) files.push_back(folder / name);
  if (!input.config_file.empty()) files.push_back(input.config_file);
  // Codes and scales of a quantized model are taken from it.
  if (const Checkpoint* like = input.Original(); like != nullptr && &like->Stored() != like) {
    for (const FileInfo& file : like->files()) files.push_back(file.path);
  }
  return LookAtSources(files, families);
}

}  // namespace weighbridge::cli
