// `weighbridge inspect CKPT`: the tensors of a checkpoint, their statistics and first values, and
// the sizes that its config.json states.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/progress.h"
#include "base/strings.h"
#include "base/threads.h"
#include "cli/command.h"
#include "cli/model_input.h"
#include "family/model.h"
#include "formats/checkpoint.h"
#include "formats/megatron_config/run_config.h"
#include "tensor/float_bits.h"
#include "tensor/stats.h"

namespace weighbridge::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectArguments {
  std::string model, pattern = "*";
  bool stats = false, json = false;
  int64_t values = 0;
  int threads = 1;
};

struct TensorReport {
  const TensorInfo* info = nullptr;
  std::optional<TensorStats> stats;
  std::vector<std::string> values;  // the first ones, "0.5 (0x3f00)"
};

// Keys of config.json that say what the model is, in the order in which they are shown. The first
// key of a group that is present counts.
constexpr std::array<std::array<const char*, 3>, 16> kConfigKeys = {{
    {"architectures"},
    {"model_type"},
    {"hidden_size", "n_embd"},
    {"num_hidden_layers", "n_layer"},
    {"num_attention_heads", "n_head"},
    {"num_key_value_heads"},
    {"head_dim"},
    {"intermediate_size"},
    {"num_local_experts", "num_experts", "n_routed_experts"},
    {"num_experts_per_tok"},
    {"vocab_size"},
    {"max_position_embeddings"},
    {"rope_theta"},
    {"tie_word_embeddings"},
    {"dtype", "torch_dtype"},
    {"quantization_config"},
}};

// The rows of kConfigKeys that config.json holds; empty without a readable one.
Json ConfigSummary(const std::filesystem::path& path) {
  Json summary = Json::object();
  std::error_code ignored;
  const auto folder = std::filesystem::is_directory(path, ignored) ? path : path.parent_path();
  const auto text = ReadTextFile(folder / "config.json");
  if (!text) return summary;
  const Json config = Json::parse(*text, nullptr, false);
  if (!config.is_object()) return summary;
  const Json text_config = config.value("text_config", Json::object());
  for (const auto& group : kConfigKeys) {
    for (const char* key : group) {
      if (key == nullptr) continue;
      const Json& owner = config.contains(key) || !text_config.is_object() ? config : text_config;
      if (!owner.contains(key)) continue;
      summary[key] = owner[key];
      break;
    }
  }
  return summary;
}

// Fields of run_config.yaml that say what the model is and how it was cut; the others, several
// hundred, are in the JSON.
constexpr std::array<std::string_view, 24> kRunConfigFields = {
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "num_moe_experts",
    "moe_ffn_hidden_size",
    "moe_router_topk",
    "mtp_num_layers",
    "vocab_size",
    "should_pad_vocab",
    "seq_length",
    "rotary_base",
    "normalization",
    "layernorm_epsilon",
    "share_embeddings_and_output_weights",
    "transformer_impl",
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
    "hf_model_id",
    "_target_"};

// The plain values of run_config.yaml's model; empty without one that can be read.
Json RunConfigFields(const std::filesystem::path& folder) {
  Json fields = Json::object();
  const auto config = ReadRunConfig(folder / kRunConfigName);
  if (!config || !*config) return fields;
  for (const auto& [key, value] : (*config)->model().items()) {
    if (value.is_primitive() && !value.is_null()) fields[key] = value;
  }
  return fields;
}

Json ShownOf(const Json& run_config) {
  Json shown = Json::object();
  for (const std::string_view key : kRunConfigFields) {
    const auto it = run_config.find(key);
    if (it != run_config.end()) shown[std::string(key)] = *it;
  }
  return shown;
}

// What Megatron-Core's config of the model holds: what run_config.yaml says, else what the family
// of config.json makes of it; empty where no family knows it or the config does not fit.
Json MegatronConfig(const std::filesystem::path& path) {
  Json fields = RunConfigFields(path);
  if (!fields.empty()) return fields;
  std::error_code ignored;
  const auto folder = std::filesystem::is_directory(path, ignored) ? path : path.parent_path();
  const auto config = ReadConfig(folder / "config.json");
  const auto families = LoadFamilies({});
  if (!config || !families) return fields;
  const auto family = families->ForConfig(*config);
  if (!family) return fields;
  const auto model = Model::Expand(**family, *config, {});
  if (!model) return fields;
  for (const Field& field : model->config()) fields[field.name] = field.value;
  return fields;
}

std::string Dump(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::vector<std::string> FirstValues(const TensorView& view, int64_t limit) {
  std::vector<std::string> out;
  const auto count = std::min(limit, Numel(view.shape) * ComponentsOf(view.dtype));
  for (int64_t i = 0; i < count; ++i) {
    out.push_back(
        FormatBits(view.dtype, RawBits(view.dtype, view.bytes.data(), static_cast<size_t>(i))));
  }
  return out;
}

std::vector<TensorReport> Collect(const Checkpoint& checkpoint, const InspectArguments& arguments) {
  std::vector<TensorReport> reports;
  uint64_t bytes = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (!GlobMatch(arguments.pattern, tensor.name)) continue;
    reports.push_back({&tensor, std::nullopt, {}});
    bytes += tensor.nbytes;
  }
  Progress progress("inspect", bytes);
  for (TensorReport& report : reports) {
    const TensorView view = checkpoint.View(*report.info);
    report.values = FirstValues(view, arguments.values);
    if (!arguments.stats) continue;
    report.stats = ComputeStats(view, arguments.threads);
    checkpoint.DropBehind(*report.info);
    progress.Add(report.info->nbytes);
  }
  return reports;
}

struct Total {
  int64_t tensors = 0, elements = 0;
  uint64_t bytes = 0;
  void Add(const TensorInfo& t) {
    ++tensors;
    elements += Numel(t.shape);
    bytes += t.nbytes;
  }
};

struct Totals {
  Total all;
  std::map<std::string, Total> by_dtype, by_file;
};

Totals Sum(const Checkpoint& checkpoint, const std::vector<TensorReport>& reports) {
  Totals totals;
  for (const TensorReport& report : reports) {
    const TensorInfo& t = *report.info;
    totals.all.Add(t);
    totals.by_dtype[std::string(ShortName(t.dtype))].Add(t);
    totals.by_file[checkpoint.files()[t.file].path.filename().string()].Add(t);
  }
  return totals;
}

// A JSON number, or null where there is none.
Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json ToJson(const Total& t) {
  return {{"tensors", t.tensors}, {"elements", t.elements}, {"bytes", t.bytes}};
}

Json ToJson(const std::map<std::string, Total>& totals) {
  Json out = Json::object();
  for (const auto& [name, total] : totals) out[name] = ToJson(total);
  return out;
}

Json ToJson(const TensorStats& s) {
  return {{"min", Number(s.min)}, {"max", Number(s.max)},       {"mean", Number(s.mean)},
          {"std", Number(s.std)}, {"absmax", Number(s.absmax)}, {"zeros", s.zeros},
          {"nan_count", s.nan},   {"inf_count", s.inf}};
}

Json ToJson(const Checkpoint& checkpoint, const std::vector<TensorReport>& reports) {
  const Totals totals = Sum(checkpoint, reports);
  Json out = {{"schema", "weighbridge.inspect/1"},
              {"path", checkpoint.path().string()},
              {"format", checkpoint.format()},
              {"config", ConfigSummary(checkpoint.path())},
              {"megatron_config", MegatronConfig(checkpoint.path())},
              {"totals", ToJson(totals.all)},
              {"by_dtype", ToJson(totals.by_dtype)},
              {"by_file", ToJson(totals.by_file)},
              {"tensors", Json::array()}};
  for (const TensorReport& report : reports) {
    const TensorInfo& t = *report.info;
    Json row = {{"name", t.name},
                {"shape", t.shape},
                {"dtype", ShortName(t.dtype)},
                {"bytes", t.nbytes},
                {"file", checkpoint.files()[t.file].path.filename().string()},
                {"offset", t.offset}};
    if (report.stats) row["stats"] = ToJson(*report.stats);
    if (!report.values.empty()) row["values"] = report.values;
    out["tensors"].push_back(std::move(row));
  }
  return out;
}

// Columns as wide as their widest cell; the first is aligned left, the rest as told.
std::string Table(const std::vector<std::vector<std::string>>& rows, const std::string& right) {
  std::vector<size_t> width(right.size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], DisplayWidth(row[i]));
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string space(width[i] - DisplayWidth(row[i]), ' ');
      if (i > 0) line += "  ";
      line += right[i] == 'r' ? space + row[i] : row[i] + space;
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string TotalsText(const char* what, const std::map<std::string, Total>& totals) {
  std::vector<std::vector<std::string>> rows = {{what, "tensors", "elements", "bytes"}};
  for (const auto& [name, t] : totals) {
    rows.push_back({ToPrintable(name), fmt::format("{}", t.tensors), fmt::format("{}", t.elements),
                    FormatBytes(t.bytes)});
  }
  return Table(rows, "lrrr");
}

std::string StatNumber(double value) {
  return std::isfinite(value) ? fmt::format("{:.6g}", value) : "-";
}

std::string TensorTable(const Checkpoint& checkpoint, const std::vector<TensorReport>& reports,
                        bool stats) {
  std::vector<std::vector<std::string>> rows = {{"name", "shape", "dtype", "bytes", "file"}};
  std::string align = "lllrl";
  if (stats) {
    rows[0] = {"name", "shape",  "dtype", "min", "max", "mean",
               "std",  "absmax", "zeros", "nan", "inf"};
    align = "lllrrrrrrrr";
  }
  for (const TensorReport& report : reports) {
    const TensorInfo& t = *report.info;
    std::vector<std::string> row = {ToPrintable(t.name), ToString(t.shape),
                                    std::string(ShortName(t.dtype))};
    if (report.stats) {
      const TensorStats& s = *report.stats;
      for (double v : {s.min, s.max, s.mean, s.std, s.absmax}) row.push_back(StatNumber(v));
      for (int64_t n : {s.zeros, s.nan, s.inf}) row.push_back(fmt::format("{}", n));
    } else {
      row.push_back(FormatBytes(t.nbytes));
      row.push_back(ToPrintable(checkpoint.files()[t.file].path.filename().string()));
    }
    rows.push_back(std::move(row));
  }
  return Table(rows, align);
}

std::string ToText(const Checkpoint& checkpoint, const std::vector<TensorReport>& reports,
                   bool stats) {
  const Totals totals = Sum(checkpoint, reports);
  std::string out =
      fmt::format("{} ({})\n", ToPrintable(checkpoint.path().string()), checkpoint.format());
  const Json config = ConfigSummary(checkpoint.path());
  if (!config.empty()) {
    out += "\nconfig.json\n";
    for (const auto& [key, value] : config.items()) {
      out += fmt::format("  {:<24} {}\n", key, ToPrintable(Dump(value)));
    }
  }
  const Json run_config = ShownOf(RunConfigFields(checkpoint.path()));
  const Json megatron = run_config.empty() ? MegatronConfig(checkpoint.path()) : run_config;
  if (!megatron.empty()) {
    out += fmt::format("\nMegatron-Core config{}\n",
                       run_config.empty() ? "" : fmt::format(" ({})", kRunConfigName));
    for (const auto& [key, value] : megatron.items()) {
      out += fmt::format("  {:<36} {}\n", key, ToPrintable(Dump(value)));
    }
  }
  out += "\n" + TensorTable(checkpoint, reports, stats);
  for (const TensorReport& report : reports) {
    if (report.values.empty()) continue;
    out +=
        fmt::format("\n{}\n  {}\n", ToPrintable(report.info->name), fmt::join(report.values, "  "));
  }
  out += "\n" + TotalsText("dtype", totals.by_dtype);
  out += "\n" + TotalsText("file", totals.by_file);
  out += fmt::format("\n{} tensors, {} elements, {}\n", totals.all.tensors, totals.all.elements,
                     FormatBytes(totals.all.bytes));
  for (const CheckpointNote& note : checkpoint.notes()) {
    out += fmt::format("note: {}\n", ToPrintable(note.message));
  }
  return out;
}

// A config that is absent or no JSON is left out; one whose parts are no tables is said as by every
// other command.
Status CheckConfig(const std::filesystem::path& path) {
  std::error_code ignored;
  const auto folder = std::filesystem::is_directory(path, ignored) ? path : path.parent_path();
  const auto config = ReadConfig(folder / "config.json");
  if (config || config.error().id != "config-kind") return {};
  return Fail(config.error());
}

int RunInspect(const InspectArguments& arguments) {
  const auto checkpoint = OpenStateDict(arguments.model);
  if (!checkpoint) return PrintError(checkpoint.error());
  if (const Status config = CheckConfig((*checkpoint)->path()); !config) {
    return PrintError(config.error());
  }
  const std::vector<TensorReport> reports = Collect(**checkpoint, arguments);
  if (reports.empty() && !(*checkpoint)->tensors().empty()) {
    std::vector<std::string> names;
    for (const TensorInfo& t : (*checkpoint)->tensors()) names.push_back(t.name);
    return PrintError({ErrorKind::kUsage, "usage",
                       fmt::format("no tensor matches '{}'", arguments.pattern), "",
                       DidYouMean(arguments.pattern, names)});
  }
  return PrintStdout(arguments.json ? Dump(ToJson(**checkpoint, reports), 2) + "\n"
                                    : ToText(**checkpoint, reports, arguments.stats));
}

}  // namespace

void AddInspect(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<InspectArguments>();
  arguments->threads = DefaultThreads();
  CLI::App* command =
      app.add_subcommand("inspect", "tensors of a checkpoint, statistics, config.json's sizes");
  command->add_option("CKPT", arguments->model, "file, folder or org/name[@REV]")->required();
  command->add_option("--tensor", arguments->pattern, "only tensors whose name matches (*, ?)")
      ->type_name("PATTERN")
      ->capture_default_str();
  command->add_flag("--stats", arguments->stats,
                    "read every value: min, max, mean, std, absmax, zeros, NaN, infinities; "
                    "default: headers only");
  command->add_option("--values", arguments->values, "show the first N values of each tensor")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "print one JSON document; default: tables");
  command->add_option("--threads", arguments->threads, "threads; default: all processors")
      ->check(CLI::PositiveNumber);
  AddExamples(*command, {"weighbridge inspect model.safetensors",
                         "weighbridge inspect ./Llama-3.2-1B --stats --tensor '*.mlp.*'",
                         "weighbridge inspect model.safetensors --values 8 --json"});
  command->callback([&context, arguments] { context.exit_status = RunInspect(*arguments); });
}

}  // namespace weighbridge::cli
