// `weighbridge export MEGATRON HF`: a torch_dist checkpoint as Hugging Face safetensors.
#include "checks/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/atomic_output.h"
#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/strings.h"
#include "checks/files_beside.h"
#include "cli/conversion.h"
#include "cli/megatron_input.h"
#include "cli/size_option.h"
#include "formats/checkpoint_files.h"
#include "formats/quantized/config.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

struct ExportArguments : MegatronArguments {
  std::string target, dtype, max_shard_size = "5G";
  ExportOptions options;
  WritingOptions writing;
  ConversionOutput output;
};

// The dtype that most bytes of the weights have.
DType MainDType(const SafetensorsPlan& plan) {
  std::map<DType, uint64_t> bytes;
  for (const TensorInfo& t : plan.tensors) bytes[t.dtype] += t.nbytes;
  const auto most = std::max_element(bytes.begin(), bytes.end(),
                                     [](auto& a, auto& b) { return a.second < b.second; });
  return most == bytes.end() ? DType::kF32 : most->first;
}

// With weights that are stored quantized in --like.
bool IsQuantized(const MegatronInput& input) {
  return input.Original() != nullptr && &input.Original()->Stored() != input.Original();
}

// config.json; of weights that are written plain without a quantization_config.
Result<std::string> ConfigText(const MegatronInput& input, DType dtype, Conversion& done) {
  if (input.config_file.empty()) {
    nlohmann::ordered_json config = input.config;
    config["torch_dtype"] = dtype == DType::kBF16  ? "bfloat16"
                            : dtype == DType::kF16 ? "float16"
                                                   : "float32";
    return DumpConfig(config);
  }
  WB_TRY(std::string text, ReadTextFile(input.config_file));
  if (IsQuantized(input) && !input.plain_weights) return text;
  WB_TRY(nlohmann::ordered_json config, ParseOrderedJson(text, input.config_file.string()));
  if (!RemoveQuantizationConfig(config)) return text;
  done.notes.push_back(
      "the weights are written plain, and quantization_config is left out of config.json; --like a "
      "quantized model without --dtype quantizes them again with its scales");
  return DumpConfig(config);
}

// Of the files that this process wrote.
void NoteRequantized(const ExportPlan& plan, const SafetensorsWriter& writer,
                     const RequantizeCounts& counts, Conversion& done) {
  size_t quantized = 0;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    quantized += plan.tensors[i].quantized != nullptr && writer.Writes(i) ? 1 : 0;
  }
  if (quantized == 0) return;
  std::string text =
      fmt::format("{} weight(s) are quantized again with the scales of --like", quantized);
  if (counts.changed == 0) {
    text += ": every code is that of --like";
  } else {
    text += fmt::format(
        ": {} value(s) are not those of --like, {} of them have no code under its "
        "scales and were rounded to the nearest ({} beyond the largest)",
        counts.changed, counts.rounded, counts.clipped);
  }
  done.notes.push_back(std::move(text));
}

// config.json, and with --like the tokenizer and what else lies beside the weights.
Status WriteOthers(const MegatronInput& input, DType dtype, const AtomicDirectory& folder,
                   Conversion& done) {
  WB_TRY(const std::string config, ConfigText(input, dtype, done));
  WB_RETURN_IF_ERROR(folder.WriteFile("config.json", config));
  if (input.Original() == nullptr) return {};
  const fs::path& source = input.Original()->path();
  WB_TRY(done.copied, FilesBeside(source, done.notes));
  return CopyFiles(source, done.copied, folder);
}

// All that decides which bytes are written.
JobKey KeyOfExport(const MegatronInput& input, const SafetensorsPlan& plan,
                   const SourceFiles& sources) {
  std::vector<std::string> work = {"export", input.family->name, input.config.dump(),
                                   plan.index_json};
  for (const SafetensorsPlan::File& file : plan.files) {
    work.push_back(file.name);
    work.push_back(file.header);
  }
  return KeyOf(sources, work);
}

// What is to be written, and from what.
struct Work {
  const Model& model;
  const MegatronInput& input;
  const ExportPlan& what;
  const SafetensorsPlan& plan;
  const SourceFiles& sources;
};

// This rank's share; on rank 0 also what all share, and the publication.
Status Write(ExportArguments& a, const Work& work, Coordinator& ranks, RankedOutput& output,
             Conversion& done) {
  const std::optional<ReadBackMode> read_back = ReadBackOf(a.writing);
  WB_TRY(SafetensorsWriter writer,
         SafetensorsWriter::Create(output.path(), work.plan, output.Shards()));
  {
    std::optional<Progress> progress;
    if (ranks.first()) progress.emplace("export", output.own_bytes());
    a.options.progress = [&](uint64_t bytes) { progress ? progress->Add(bytes) : void(); };
    if (ranks.size() > 1) a.options.proceed = [&] { return ranks.Check(); };
    WB_TRY(const RequantizeCounts counts, Export(work.model, work.what, a.options, writer));
    NoteRequantized(work.what, writer, counts, done);
  }
  if (read_back) WB_RETURN_IF_ERROR(writer.ReadBack(a.writing.threads, *read_back));
  WB_RETURN_IF_ERROR(work.sources.CheckUnchanged());
  WB_RETURN_IF_ERROR(ranks.Barrier());
  if (!ranks.first()) return {};
  WB_RETURN_IF_ERROR(writer.Finish());
  WB_RETURN_IF_ERROR(WriteOthers(work.input, MainDType(work.plan), output.folder(), done));
  WB_TRY(done.published, output.Commit());
  done.read_back = read_back.has_value();
  return {};
}

// The source's config.json is taken as it is.
void NoteMtpLeftOut(MegatronInput& input, Conversion& done) {
  const Result<Model> whole = ExpandModel(input, /*without_mtp=*/false);
  if (!whole || whole->mtp_layers() == 0) return;
  done.notes.push_back(
      fmt::format("config.json still counts {} MTP layer(s), which were not exported: set its key "
                  "to 0 where the model is to be used without them",
                  whole->mtp_layers()));
}

Result<Conversion> Make(ExportArguments& a, Coordinator& ranks) {
  const auto start = std::chrono::steady_clock::now();
  Conversion done;
  WB_TRY(a.options.memory_bytes, ParseSize(a.writing.memory, "--memory"));
  a.options.threads = a.writing.threads;
  WB_TRY(const auto input, OpenMegatronInput(a));
  done.notes = input->notes;
  WB_RETURN_IF_ERROR(CheckConversionOutput(a.output, a.Inputs()));
  WB_TRY(const SourceFiles sources, LookAtSources(*input, a.families));
  WB_RETURN_IF_ERROR(RefuseSourceAsTarget(input->checkpoint->path(), a.target));
  if (input->Original() != nullptr) {
    WB_RETURN_IF_ERROR(RefuseSourceAsTarget(input->Original()->path(), a.target));
  }
  if (!a.dtype.empty()) a.options.dtype = ParseShortName(a.dtype);
  input->plain_weights = a.options.dtype.has_value() && IsQuantized(*input);
  WB_TRY(const Model model, ExpandModel(*input, a.options.without_mtp));
  const Checkpoint* like = input->plain_weights ? nullptr : input->Original();
  WB_TRY(const ExportPlan what, PlanExport(model, *input->checkpoint, like, a.options));
  std::vector<TensorInfo> infos;
  for (const ExportTensor& t : what.tensors) infos.push_back(t.info);
  WB_TRY(const int64_t shard_bytes, ParseSize(a.max_shard_size, "--max-shard-size"));
  WB_TRY(const SafetensorsPlan plan,
         PlanSafetensors(std::move(infos), {.max_shard_bytes = static_cast<uint64_t>(shard_bytes),
                                            .stem = WeightFileStem(input->config)}));
  std::vector<PlannedFile> files;
  for (const SafetensorsPlan::File& file : plan.files) files.push_back({file.name, file.nbytes});
  WB_TRY(RankedOutput made,
         RankedOutput::Open(ranks, a.target, files,
                            RankedOptions(a.writing, CheckReplaceable, plan.TotalFileBytes(),
                                          KeyOfExport(*input, plan, sources))));
  if (ranks.first()) PrintStart(made, a.output);
  WB_RETURN_IF_ERROR(
      OrKept(Write(a, {model, *input, what, plan, sources}, ranks, made, done), made));
  Describe(made, ranks, done);
  NoteLeftOut(what.source.binding(), done);
  NoteLeftOut(what.left_out, done);
  done.bytes = plan.total_size;
  done.files = plan.files.size();
  done.tensors = what.tensors.size();
  done.command = "export";
  done.source = a.megatron;
  done.target = a.target;
  done.family = input->family->name;
  done.format = "safetensors";
  std::vector<std::string> next = {"weighbridge", "verify", a.target, a.megatron};
  if (a.options.without_mtp) {
    next.emplace_back("--without-mtp");
    NoteMtpLeftOut(*input, done);
  }
  done.next = NextCommand(std::move(next), a.families);
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return done;
}

int Run(ExportArguments& a) {
  return RunConversion(a.writing, a.target, a.output,
                       [&](Coordinator& ranks) { return Make(a, ranks); });
}

}  // namespace

void AddExport(CLI::App& app, Context& context) {
  auto a = std::make_shared<ExportArguments>();
  CLI::App* command = app.add_subcommand("export", "Megatron -> Hugging Face safetensors");
  command
      ->add_option(std::string("MEGATRON,") + kMegatronSpellings, a->megatron,
                   "a Megatron checkpoint: the folder with the tracker file, or an iter_N")
      ->required();
  command
      ->add_option("HF,--output-dir", a->target,
                   "the folder to make; it appears whole or not at all")
      ->required();
  AddMegatronModelOptions(*command, *a,
                          "that it came from: config, tokenizer, dtypes and tied tensors are taken "
                          "from it");
  command->add_option("--dtype", a->dtype, "of the weights; default: as --like, else as stored")
      ->check(CLI::IsMember({"bf16", "fp16", "fp32"}))
      ->group("Output");
  command
      ->add_flag("--without-mtp", a->options.without_mtp,
                 "leave multi-token-prediction layers out; default: off")
      ->group("Model");
  command->add_option("--max-shard-size", a->max_shard_size, "of one weight file: bytes, K, M or G")
      ->type_name("SIZE")
      ->capture_default_str()
      ->group("Output");
  AddConversionOutput(*command, a->output);
  AddWritingOptions(*command, "replace HF if it is there", a->writing);
  AddExamples(*command, {"weighbridge export ./checkpoints/llama32_1b ./hf --like ./Llama-3.2-1B",
                         "weighbridge export ./mcore/iter_0000100 ./hf --config config.json"});
  command->callback([&context, a] { context.exit_status = Run(*a); });
}

}  // namespace weighbridge::cli
