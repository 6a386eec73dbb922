// `weighbridge selftest [MODEL]`: injects every known fault, and shows that it is caught and named.
#include "checks/selftest/selftest.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>

#include "base/json.h"
#include "base/progress.h"
#include "base/scratch_folder.h"
#include "base/threads.h"
#include "checks/toy.h"
#include "cli/command.h"
#include "cli/model_input.h"

namespace weighbridge::cli {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kShardBytes = 100'000;  // several shards, and an index

struct SelftestArguments {
  std::string model, config;
  std::vector<std::string> families;
  SelftestOptions options;
};

// What the subjects of a run point into.
struct Models {
  FamilyLibrary families;
  std::unique_ptr<ModelInput> given;
  std::vector<std::unique_ptr<Checkpoint>> toys;
  std::vector<SelftestSubject> subjects;
};

Status AddToy(const FamilySpec& spec, const fs::path& folder, Models& models) {
  std::vector<std::string> notes;
  WB_TRY(const auto config, ToyConfig(spec, {}, {}, DType::kBF16, notes));
  const fs::path path = folder / spec.name;
  RandomToyOptions options;
  options.max_shard_bytes = kShardBytes;
  WB_TRY(const Toy toy, MakeRandomToy(spec, config, path, options));
  WB_TRY(auto checkpoint, OpenCheckpoint(toy.path));
  WB_TRY(nlohmann::json read, ReadJsonFile(path / "config.json"));
  models.subjects.push_back({spec.name, &spec, std::move(read), checkpoint.get(), toy.path});
  models.toys.push_back(std::move(checkpoint));
  return {};
}

Status AddToys(const SelftestArguments& a, const fs::path& folder, Models& models) {
  WB_TRY(models.families, LoadFamilyOptions(a.families));
  std::vector<const FamilySpec*> chosen;
  for (const std::string& family : a.families) {
    WB_TRY(const FamilySpec* spec, ChosenFamily(models.families, family));
    chosen.push_back(spec);
  }
  if (a.families.empty()) {
    WB_TRY(const auto* all, models.families.All());
    for (const auto& [name, spec] : *all) chosen.push_back(&spec);
  }
  for (const FamilySpec* spec : chosen) WB_RETURN_IF_ERROR(AddToy(*spec, folder, models));
  return {};
}

Result<Report> RunOn(SelftestArguments& a) {
  WB_TRY(const auto scratch, ScratchFolder::Create("selftest"));
  a.options.folder = scratch->path();
  Models models;
  if (a.model.empty()) {
    WB_RETURN_IF_ERROR(AddToys(a, scratch->path(), models));
  } else {
    WB_TRY(models.given, OpenModelInput(a.model, a.families, a.config));
    models.subjects.push_back(
        {a.model, models.given->family, models.given->config, models.given->checkpoint.get(), {}});
  }
  std::optional<Progress> progress;
  a.options.began = [&](uint64_t bytes) { progress.emplace("selftest", bytes); };
  a.options.progress = [&](uint64_t bytes) { progress->Add(bytes); };
  WB_TRY(Report report, Selftest(models.subjects, a.options));
  if (models.given) DescribeInput(*models.given, report);
  return report;
}

int Run(Context& context, SelftestArguments& a) {
  if (a.model.empty() && !a.config.empty()) {
    return PrintError({ErrorKind::kUsage, "usage", "--config is for a MODEL, and none is given",
                       "--config", "the toy models of --family have configs of their own"});
  }
  CommandInputs inputs{{a.model}, a.families};
  inputs.files.push_back(a.config);
  return RunCheck(context, "selftest", "L1", inputs, [&] { return RunOn(a); });
}

}  // namespace

void AddSelftest(CLI::App& app, Context& context) {
  auto a = std::make_shared<SelftestArguments>();
  a->options.threads = DefaultThreads();
  CLI::App* command = app.add_subcommand(
      "selftest", "injects every known fault into copies, and shows that it is caught and named");
  command->add_option(
      std::string("MODEL,") + kHfSpellings, a->model,
      "a Hugging Face folder, a .safetensors file, or org/name[@REV] in the local cache, which is "
      "held in memory and left as it is; default: a small random model of every family");
  command
      ->add_option(
          "--causes", a->options.causes,
          "only faults of these causes (docs/causes.md), with commas between; default: all")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("LIST")
      ->group("Faults");
  command
      ->add_option("--seed", a->options.first_seed,
                   "the first seed of the random places and values")
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 53))
      ->capture_default_str()
      ->group("Faults");
  command
      ->add_option("--seeds", a->options.seeds,
                   "how many seeds, each with one fault of every cause")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}))
      ->capture_default_str()
      ->group("Faults");
  command
      ->add_option("--faults", a->options.faults,
                   "faults at once, of different causes; above 1 in random combinations")
      ->check(CLI::Range(1, 3))
      ->capture_default_str()
      ->group("Faults");
  command
      ->add_option("--combinations", a->options.combinations,
                   "how many of them, over all families; with --faults 2 or 3")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}))
      ->capture_default_str()
      ->group("Faults");
  AddConfigOption(*command, a->config);
  AddFamilyOption(*command, a->families);
  AddThreadsOption(*command, a->options.threads);
  AddOutputOptions(*command, context);
  AddExamples(*command, {"weighbridge selftest --family llama",
                         "weighbridge selftest --seeds 20 --json selftest.json",
                         "weighbridge selftest ./Llama-3.2-1B --causes qkv-order,tp-order",
                         "weighbridge selftest --faults 2 --combinations 200"});
  command->callback([&context, a] { context.exit_status = Run(context, *a); });
}

}  // namespace weighbridge::cli
