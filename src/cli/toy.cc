// `weighbridge toy OUT`: a small checkpoint, random or the first layers of a real one.
#include "checks/toy.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <memory>

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/strings.h"
#include "base/threads.h"
#include "cli/command.h"
#include "cli/model_input.h"
#include "cli/size_option.h"
#include "cli/version_text.h"
#include "report/output_file.h"

namespace weighbridge::cli {
namespace fs = std::filesystem;
namespace {

struct ToyArguments {
  std::string out, like, config, dtype, json, max_shard_size = "5G";
  std::vector<std::string> families, edits;
  int64_t layers = 0;
  bool quiet = false, has_seed = false;
  RandomToyOptions options;
};

// CLI11 wraps negative numbers and clamps large ones.
const CLI::Validator kSeed(
    [](std::string& text) -> std::string {
      uint64_t seed = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
      if (error == std::errc() && end == text.data() + text.size()) return "";
      return fmt::format("'{}' is not a number from 0 to 2^64 - 1", text);
    },
    "");

Result<nlohmann::ordered_json> ReadOrdered(const std::string& path) {
  if (path.empty()) return nlohmann::ordered_json();
  WB_TRY(const std::string text, ReadTextFile(path, kMaxJsonFileBytes));
  WB_TRY(nlohmann::ordered_json config, ParseOrderedJson(text, path));
  WB_RETURN_IF_ERROR(CheckConfigParts(nlohmann::json(config)));
  return config;
}

Result<const FamilySpec*> FamilyFor(const ToyArguments& a, const FamilyLibrary& library,
                                    const nlohmann::ordered_json& base) {
  if (a.families.empty() && base.is_null()) {
    return Fail(ErrorKind::kUsage, "usage",
                "say which model: --family NAME, --config FILE or --like MODEL", "",
                "for example: weighbridge toy out --family llama");
  }
  if (a.families.empty()) return library.ForConfig(nlohmann::json(base));
  WB_TRY(const FamilySpec* chosen, ChosenFamily(library, a.families.back()));
  const auto of_config = library.ForConfig(nlohmann::json(base));
  if (of_config && *of_config != chosen) {
    return Fail(ErrorKind::kUsage, "usage",
                fmt::format("the config is of family {}, --family says {}", (*of_config)->name,
                            chosen->name),
                a.config);
  }
  return chosen;
}

Result<Toy> MakeRandom(ToyArguments& a, const FamilyLibrary& library) {
  WB_TRY(const nlohmann::ordered_json base, ReadOrdered(a.config));
  WB_TRY(const FamilySpec* spec, FamilyFor(a, library, base));
  std::vector<ConfigEdit> edits;
  for (const std::string& text : a.edits) {
    WB_TRY(ConfigEdit edit, ParseConfigEdit(text));
    edits.push_back(std::move(edit));
  }
  if (a.layers != 0) {
    WB_TRY(ConfigEdit edit, LayersEdit(*spec, a.layers));
    edits.push_back(std::move(edit));
  }
  std::vector<std::string> notes;
  WB_TRY(const auto config, ToyConfig(*spec, base, edits, a.options.dtype, notes));
  WB_TRY(Toy toy, MakeRandomToy(*spec, config, a.out, a.options));
  toy.notes.insert(toy.notes.begin(), notes.begin(), notes.end());
  return toy;
}

Status CheckTruncation(const ToyArguments& a) {
  const auto refuse = [](const char* option) {
    return Fail(ErrorKind::kUsage, "usage",
                fmt::format("{} is for random weights; --like keeps what is there", option));
  };
  if (!a.edits.empty()) return refuse("--set");
  if (!a.dtype.empty()) return refuse("--dtype");
  if (a.has_seed) return refuse("--seed");
  if (a.layers > 0) return {};
  return Fail(ErrorKind::kUsage, "usage",
              "--like needs --num-hidden-layers N: how many layers are kept");
}

Result<Toy> MakeTruncated(ToyArguments& a, const FamilyLibrary& library) {
  WB_RETURN_IF_ERROR(CheckTruncation(a));
  WB_TRY(const fs::path path, ResolveModelPath(a.like));
  WB_TRY(const auto checkpoint, OpenCheckpoint(path));
  std::error_code ec;
  const fs::path folder = fs::is_directory(path, ec) ? path : path.parent_path();
  const fs::path beside = a.config.empty() ? folder / "config.json" : fs::path(a.config);
  // A path that cannot be looked at gets its message from being opened.
  if (fs::status(beside, ec).type() == fs::file_type::not_found) {
    return Fail(ErrorKind::kNotFound, "config-missing",
                "there is no config.json beside the weights", beside.string(),
                "give one with --config FILE");
  }
  WB_TRY(const nlohmann::ordered_json config, ReadOrdered(beside.string()));
  const FamilySpec* spec = nullptr;
  if (!a.families.empty()) {
    WB_TRY(spec, FamilyFor(a, library, config));
  } else if (const auto known = library.ForConfig(nlohmann::json(config))) {
    spec = *known;
  }
  TruncateOptions options;
  static_cast<ToyOptions&>(options) = a.options;
  options.layers = a.layers;
  options.without_mtp = a.options.without_mtp;
  return MakeTruncatedToy(*checkpoint, spec, config, a.out, options);
}

std::string CountText(uint64_t count) {
  if (count < 1000) return fmt::format("{}", count);
  const std::string text = FormatBytes(count);  // "1.24 GB"
  const char unit = text[text.size() - 2];
  return text.substr(0, text.size() - 2) + (unit == 'k'   ? "thousand"
                                            : unit == 'M' ? "million"
                                            : unit == 'G' ? "billion"
                                                          : "trillion");
}

std::string LayersText(int64_t layers) {
  return fmt::format("{} layer{}", layers, layers == 1 ? "" : "s");
}

// What one would type next; a model of no known family cannot make the round trip. The config of a
// random model names its family, so only files are needed to know it.
std::string NextText(const ToyArguments& a, const Toy& toy) {
  std::vector<std::string> families;
  if (!toy.family.empty()) {
    std::copy_if(a.families.begin(), a.families.end(), std::back_inserter(families),
                 [&](const std::string& f) { return !a.like.empty() || IsFamilyFile(f); });
  }
  const char* command = toy.family.empty() ? "inspect" : "roundtrip";
  return fmt::format("next: {}\n", NextCommand({"weighbridge", command, a.out}, families));
}

std::string Text(const ToyArguments& a, const Toy& toy) {
  const std::string size =
      fmt::format("{} parameters in {} tensors, {} in {} file{}", CountText(toy.parameters),
                  toy.tensors, FormatBytes(toy.bytes), toy.files, toy.files == 1 ? "" : "s");
  if (a.like.empty()) {
    return fmt::format("{}: random {}, {}, {}, seed {}\n  {}\n{}", a.out, toy.family,
                       LayersText(toy.layers), ShortName(a.options.dtype), a.options.seed, size,
                       NextText(a, toy));
  }
  const std::string others =
      toy.copied.empty() ? "" : fmt::format("; other files copied: {}", toy.copied.size());
  return fmt::format("{}: the first {} of {} of {}, byte for byte\n  {}{}\n{}", a.out, toy.layers,
                     LayersText(toy.source_layers), a.like, size, others, NextText(a, toy));
}

std::string Json(const ToyArguments& a, const Toy& toy) {
  nlohmann::ordered_json out;
  out["schema"] = "weighbridge.toy/1";
  out["command"] = "toy";
  out["path"] = a.out;
  out["kind"] = a.like.empty() ? "random" : "truncated";
  out["family"] =
      toy.family.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(toy.family);
  out["layers"] = toy.layers;
  out["tensors"] = toy.tensors;
  out["parameters"] = toy.parameters;
  out["bytes"] = toy.bytes;
  out["files"] = toy.files;
  if (a.like.empty()) {
    out["dtype"] = std::string(ShortName(a.options.dtype));
    out["seed"] = a.options.seed;
  } else {
    out["source"] = {{"path", a.like}, {"layers", toy.source_layers}};
    out["copied"] = toy.copied;
  }
  out["notes"] = toy.notes;
  out["version"] = VersionText();
  return DumpConfig(out);
}

void PrintNotes(const ToyArguments& a, const Toy& toy) {
  if (a.quiet) return;
  for (const std::string& note : toy.notes) fmt::print(stderr, "note: {}\n", note);
  if (toy.published.kind == PublishKind::kReplaced) {
    fmt::print(stderr,
               "note: this file system cannot exchange folders: {} was absent for a moment\n",
               a.out);
  }
  if (toy.published.left_behind) {
    fmt::print(stderr, "note: the old content could not be removed: {}\n",
               toy.published.left_behind->string());
  }
}

int Print(const ToyArguments& a, const Toy& toy) {
  PrintNotes(a, toy);
  int status = 0;
  if (!a.json.empty() && a.json != "-") {
    const Status written = WriteOutputFile(a.json, [&](const Sink& sink) { sink(Json(a, toy)); });
    if (!written) status = PrintError(written.error());
  }
  if (a.json == "-") return PrintStdout(Json(a, toy));
  return a.quiet ? status : std::max(status, PrintStdout(Text(a, toy)));
}

Result<Toy> Make(ToyArguments& a) {
  if (!a.json.empty() && a.json != "-") WB_RETURN_IF_ERROR(CheckOutputFile(a.json));
  // OUT as well: it does not exist yet, or is replaced as a whole.
  CommandInputs inputs{{a.like, a.out}, a.families};
  inputs.files.push_back(a.config);
  const std::vector<NamedOutput> outputs = {{"--json", a.json}};
  WB_RETURN_IF_ERROR(CheckOutputsSpareInputs(outputs, inputs));
  WB_TRY(const FamilyLibrary library, LoadFamilyOptions(a.families));
  WB_TRY(const int64_t shard_bytes, ParseSize(a.max_shard_size, "--max-shard-size"));
  a.options.max_shard_bytes = static_cast<uint64_t>(shard_bytes);
  if (!a.dtype.empty()) a.options.dtype = *ParseShortName(a.dtype);
  return a.like.empty() ? MakeRandom(a, library) : MakeTruncated(a, library);
}

int Run(ToyArguments& a) {
  Progress progress("toy", 0);
  a.options.progress = [&](uint64_t bytes) { progress.Add(bytes); };
  const Result<Toy> toy = Make(a);
  return toy ? Print(a, *toy) : PrintError(toy.error());
}

void AddModelOptions(CLI::App& command, ToyArguments& a) {
  command
      .add_option("--family", a.families, "a family's name, or a family file (docs/families.md)")
      ->type_name("NAME")
      ->allow_extra_args(false)
      ->group("Model");
  command
      .add_option("--config", a.config,
                  "the config.json to start from; default: a small one of the family, or with "
                  "--like the one beside the weights")
      ->type_name("FILE")
      ->group("Model");
  command
      .add_option("--like", a.like,
                  "keep the first layers of this model: a folder, a .safetensors file, or "
                  "org/name[@REV] in the local cache")
      ->type_name("MODEL")
      ->group("Model");
  command.add_option("--num-hidden-layers", a.layers, "number of layers")
      ->check(CLI::Range(int64_t{1}, int64_t{100000}))
      ->group("Model");
  command
      .add_flag("--without-mtp", a.options.without_mtp,
                "leave multi-token-prediction layers out; default: off")
      ->group("Model");
  command
      .add_option("--set", a.edits,
                  "set a config key, for example hidden_size=256; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->group("Random weights");
  command.add_option("--dtype", a.dtype, "of the weights; default: bf16")
      ->check(CLI::IsMember({"bf16", "fp16", "fp32", "bfloat16", "float16", "float32"}))
      ->group("Random weights");
  command.add_option("--seed", a.options.seed, "equal seeds give equal bytes")
      ->type_name("N")
      ->check(kSeed)
      ->capture_default_str()
      ->group("Random weights");
}

}  // namespace

void AddToy(CLI::App& app, Context& context) {
  auto a = std::make_shared<ToyArguments>();
  a->options.threads = DefaultThreads();
  CLI::App* command = app.add_subcommand(
      "toy", "a small checkpoint: random weights of any family, or the first layers of a model");
  command
      ->add_option("OUT,--output-dir", a->out, "the folder to make; it appears whole or not at all")
      ->required();
  AddModelOptions(*command, *a);
  command->add_option("--max-shard-size", a->max_shard_size, "of one weight file: bytes, K, M or G")
      ->type_name("SIZE")
      ->capture_default_str()
      ->group("Output");
  command->add_flag("--overwrite", a->options.overwrite, "replace OUT if it is there; default: off")
      ->group("Output");
  command->add_option("--json", a->json, "write what was made as JSON to FILE, - for stdout")
      ->type_name("FILE")
      ->group("Output");
  command->add_flag("-q,--quiet", a->quiet, "print nothing but errors")->group("Output");
  AddThreadsOption(*command, a->options.threads);
  AddExamples(*command,
              {"weighbridge toy out --family qwen3_moe",
               "weighbridge toy out --family llama --set hidden_size=256 --set num_hidden_layers=8",
               "weighbridge toy out --like meta-llama/Llama-3.2-1B --num-hidden-layers 2"});
  command->callback([&context, command, a] {
    a->has_seed = command->count("--seed") > 0;
    context.exit_status = Run(*a);
  });
}

}  // namespace weighbridge::cli
