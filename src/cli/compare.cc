// `weighbridge compare HF [MEGATRON]`: do both models compute the same function, layer by layer?
#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>

#include "base/file.h"
#include "base/ranks.h"
#include "base/scratch_folder.h"
#include "base/strings.h"
#include "base/subprocess.h"
#include "cli/command.h"
#include "cli/judge_forward.h"
#include "cli/rank_options.h"
#include "engine/component.h"
#include "engine/team_run.h"

namespace weighbridge::cli {
namespace {

constexpr size_t kMostPrompts = 1024;
constexpr int64_t kMostOwnRanks = 256;
constexpr const char* kRendezvous = "WEIGHBRIDGE_RENDEZVOUS";  // set for ranks started here

struct CompareArguments : ForwardArguments {
  RankOptions job;
  std::vector<std::string> token_ids, thresholds;
  std::string prompt_file;
};

// "1,2,3".
Result<std::vector<int64_t>> ParseIds(const std::string& text) {
  std::vector<int64_t> ids;
  for (const char* at = text.data(); at < text.data() + text.size();) {
    int64_t id = 0;
    const auto [end, error] = std::from_chars(at, text.data() + text.size(), id);
    const bool last = end == text.data() + text.size();
    if (error != std::errc() || (!last && *end != ',')) {
      return Fail(ErrorKind::kUsage, "usage", fmt::format("'{}' is no list of token ids", text),
                  "--token-ids", "numbers with commas between: --token-ids 1,15,27");
    }
    ids.push_back(id);
    at = end + 1;
  }
  return ids;
}

// A prompt a line; empty lines count for nothing.
Status ReadPrompts(CompareArguments& a) {
  if (a.prompt_file.empty()) return {};
  WB_TRY(const std::string text, ReadTextFile(a.prompt_file, 16u << 20));
  for (std::string_view rest = text; !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) a.prompts.emplace_back(line);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (a.prompts.empty()) {
    return Fail(ErrorKind::kUsage, "usage", "the file holds no prompt", a.prompt_file,
                "one prompt a line");
  }
  return {};
}

Status ReadTokens(CompareArguments& a) {
  WB_RETURN_IF_ERROR(ReadPrompts(a));
  for (const std::string& text : a.token_ids) {
    WB_TRY(a.options.token_ids.emplace_back(), ParseIds(text));
  }
  if (a.prompts.size() + a.token_ids.size() > kMostPrompts) {
    return Fail(ErrorKind::kUsage, "usage", fmt::format("more than {} prompts", kMostPrompts),
                "--prompt", "run the command once for each part of them");
  }
  if (a.options.seq_len > 0 && !(a.prompts.empty() && a.token_ids.empty())) {
    return Fail(ErrorKind::kUsage, "usage",
                "--seq-len is for random ids, and ids or prompts are given", "--seq-len",
                "leave one of them out");
  }
  return {};
}

// The sides have their own originals; a file of the same name is written with its folder.
Status CheckSources(const CompareArguments& a) {
  if (a.options.reference == "megatron-core" || a.options.candidate == "transformers") {
    return Fail(ErrorKind::kUsage, "usage",
                "the reference is Hugging Face's side and the candidate is Megatron's", "",
                "--reference transformers, --candidate megatron-core");
  }
  const bool runs_here = a.options.candidate.empty() || a.options.candidate == "native";
  if (!runs_here && TeamSize(a.options.grid) > 1) {
    return Fail(ErrorKind::kUsage, "usage",
                "a grid is for the Megatron side that runs here, and --candidate is another",
                "--candidate", "leave --tp, --pp, --ep and --etp out");
  }
  if (TeamSize(a.options.grid) == 1 && a.options.grid != ParallelGrid()) {
    return Fail(ErrorKind::kUsage, "grid", "these options place layers on pipeline stages", "",
                "add --pp");
  }
  if (a.options.sequence_parallel && a.options.grid.tp == 1) {
    return Fail(ErrorKind::kUsage, "usage", "only tensor-parallel ranks divide the sequence",
                "--sequence-parallel", "add --tp");
  }
  if (a.options.reference == "transformers" && !a.config.empty()) {
    return Fail(ErrorKind::kUsage, "usage",
                "transformers reads the config.json that lies beside the weights", "--config",
                "leave --config out, or take --reference native");
  }
  return {};
}

// PATTERN=RATIO.
Status ReadThresholds(CompareArguments& a) {
  for (const std::string& text : a.thresholds) {
    const size_t equals = text.rfind('=');
    RatioThreshold threshold;
    bool is_number = false;
    if (equals != std::string::npos && equals > 0) {
      threshold.pattern = text.substr(0, equals);
      const char* end = text.data() + text.size();
      const auto parsed = std::from_chars(text.data() + equals + 1, end, threshold.ratio);
      is_number = parsed.ec == std::errc() && parsed.ptr == end;
    }
    if (!is_number || !(threshold.ratio > 0) || !std::isfinite(threshold.ratio)) {
      return Fail(ErrorKind::kUsage, "usage",
                  fmt::format("'{}' is no threshold", ToPrintable(text)), "--threshold",
                  "a pattern and a ratio above 0: --threshold '*.mlp.router=4'");
    }
    a.options.thresholds.push_back(std::move(threshold));
  }
  return {};
}

// The environment of a rank that this process starts (base/ranks.h, "own").
Subprocess RankProcess(const Context& context, int64_t rank, int64_t size, const std::string& job,
                       const std::filesystem::path& meeting) {
  Subprocess process;
  process.argv = context.argv;
  process.argv[0] = "/proc/self/exe";
  process.environment = {{"WEIGHBRIDGE_RANK", std::to_string(rank)},
                         {"WEIGHBRIDGE_WORLD_SIZE", std::to_string(size)},
                         {"WEIGHBRIDGE_JOB_ID", job},
                         {kRendezvous, meeting.string()}};
  return process;
}

// The other ranks of a grid that no launcher has started, all on this machine.
class OwnRanks {
 public:
  // Makes this process rank 0 of them, for JoinRanks.
  Status Start(const Context& context, RankOptions& job, int64_t size) {
    WB_TRY(folder_, ScratchFolder::Create("ranks"));
    const std::filesystem::path meeting =
        job.folder.empty() ? folder_->path() : std::filesystem::absolute(job.folder);
    for (int64_t rank = 0; rank < size; ++rank) {
      const Subprocess process =
          RankProcess(context, rank, size, folder_->path().string(), meeting);
      if (rank > 0) {
        WB_RETURN_IF_ERROR(others_.Start(process));
        continue;
      }
      for (const auto& [name, value] : process.environment) {
        ::setenv(name.c_str(), value.c_str(), 1);
      }
    }
    job.launcher = "own";
    return {};
  }

 private:
  std::unique_ptr<ScratchFolder> folder_;
  Companions others_;  // ended before the folder goes
};

// Nothing is kept of a comparison.
Error Lost(Error error) {
  error.hint = "start the run again";
  return error;
}

// Where the connection to a rank broke, the coordinator knows which one is lost, a moment later.
Error LostRankOr(Error error, Coordinator& ranks) {
  constexpr auto kPatience = std::chrono::seconds(3);
  constexpr auto kPause = std::chrono::milliseconds(100);
  if (error.kind != ErrorKind::kInternal) return error;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    if (Status all = ranks.Check(); !all) return Lost(std::move(all).error());
    std::this_thread::sleep_for(kPause);
  }
  return error;
}

// Ends the run where a rank is lost and this one still waits for it: a broken connection is not
// always seen by who waits.
class LossWatch {
 public:
  explicit LossWatch(Coordinator& ranks) : ranks_(ranks), thread_([this] { Watch(); }) {}
  ~LossWatch() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

 private:
  void Watch() {
    constexpr auto kLook = std::chrono::milliseconds(500);
    constexpr auto kPatience = std::chrono::seconds(10);
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kLook, [&] { return done_; })) {
      Status all = ranks_.Check();
      if (all) continue;
      // Who notices by itself ends in order.
      if (wake_.wait_for(lock, kPatience, [&] { return done_; })) return;
      std::_Exit(EndJob(ranks_, Lost(std::move(all).error()), PrintError));
    }
  }

  Coordinator& ranks_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool done_ = false;
  std::thread thread_;
};

// Rank 0 judges; the others compute for it.
Result<Report> RunOnRanks(CompareArguments& a, Coordinator& ranks) {
  const LossWatch watch(ranks);
  WB_TRY(const TeamRun team, TeamRun::Join(ranks, a.options));
  a.options.backend = team.backend();
  WB_TRY(const ForwardPair pair, OpenForward(a));
  if (!ranks.first()) {
    WB_RETURN_IF_ERROR(
        team.Follow(*pair.model, *pair.input->checkpoint, pair.megatron.get(), a.options));
    return Report();
  }
  Result<Report> report = JudgeForward(pair, a, "compare");
  // Whatever came of it, the others are not to wait; a lost one is what the report says.
  const Status ended = team.End();
  if (report && ended) return report;
  return Fail(LostRankOr(report ? ended.error() : report.error(), ranks));
}

Result<Report> RunOn(CompareArguments& a, Coordinator& ranks) {
  // What is missing is said before a large checkpoint is looked at.
  WB_RETURN_IF_ERROR(FindComponent());
  WB_RETURN_IF_ERROR(CheckSources(a));
  WB_RETURN_IF_ERROR(ReadTokens(a));
  WB_RETURN_IF_ERROR(ReadThresholds(a));
  if (TeamSize(a.options.grid) > 1) return RunOnRanks(a, ranks);
  WB_TRY(const ForwardPair pair, OpenForward(a));
  return JudgeForward(pair, a, "compare");
}

// Where no launcher has started ranks, this process does.
Status StartRanks(const Context& context, CompareArguments& a, int64_t size, OwnRanks& own) {
  WB_RETURN_IF_ERROR(CheckSources(a));
  if (std::getenv(kRendezvous) != nullptr) {
    // This program has started this process, whatever --launcher said to the first one. It ends
    // with that one, however that ends.
    a.job.launcher = "own";
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    return {};
  }
  WB_TRY(const Launch launch,
         DetectLaunch(a.job.launcher, [](const char* name) { return std::getenv(name); }));
  if (launch.size > 1) return {};
  // What is missing is said once, before processes are started.
  WB_RETURN_IF_ERROR(FindComponent());
  if (size > kMostOwnRanks) {
    return Fail(ErrorKind::kUsage, "grid",
                fmt::format("{} needs {} ranks, more than are started on one machine",
                            ToString(a.options.grid), size),
                "", "start them with torchrun, mpirun or srun");
  }
  return own.Start(context, a.job, size);
}

int Run(Context& context, CompareArguments& a) {
  CommandInputs inputs{{a.model}, a.families};
  if (!a.megatron.empty()) inputs.models.push_back(a.megatron);
  inputs.files.insert(inputs.files.end(),
                      {a.config, a.prompt_file, a.options.reference, a.options.candidate});
  inputs.written = {{"--record", a.options.record}};
  const int64_t size = TeamSize(a.options.grid);
  if (size == 1) {
    const auto alone = Alone();
    return RunCheck(context, "compare", "L2", inputs, [&] { return RunOn(a, *alone); });
  }
  OwnRanks own;
  if (const Status started = StartRanks(context, a, size, own); !started) {
    return PrintError(started.error());
  }
  return RunRanks(a.job, "weighbridge-compare.ranks", [&](Coordinator& ranks) {
    return RunCheck(context, "compare", "L2", inputs, ranks, [&] { return RunOn(a, ranks); });
  });
}

void AddTokenOptions(CLI::App& command, CompareArguments& a) {
  command
      .add_option("--prompt", a.prompts,
                  "text to run on, made ids by the model's tokenizer.json; may be repeated")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group("Tokens");
  command.add_option("--prompts", a.prompt_file, "a file with a prompt in each line")
      ->type_name("FILE")
      ->group("Tokens");
  command
      .add_option("--token-ids", a.token_ids,
                  "the ids to run on, with commas between; may be repeated")
      ->type_name("LIST")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group("Tokens");
  command
      .add_option("--seq-len", a.options.seq_len,
                  "so many random ids; default: 512, or the longest position of the config")
      ->type_name("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 14))
      ->group("Tokens");
  command.add_option("--seed", a.options.seed, "of the random ids")
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 53))
      ->capture_default_str()
      ->group("Tokens");
}

void AddJudgementOptions(CLI::App& command, CompareArguments& a) {
  command
      .add_option("--threshold", a.thresholds,
                  "another ratio that passes, for the modules that match; repeatable, the last one "
                  "counts; default: 2, the largest error four times as much")
      ->type_name("PATTERN=RATIO")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group("Compare");
  command.add_option("--top-k", a.options.top_k, "next tokens that -v shows of the last position")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str()
      ->group("Compare");
}

void AddSourceOptions(CLI::App& command, CompareArguments& a) {
  command
      .add_option("--reference", a.options.reference,
                  "native: its computation here; transformers: the library itself, in a Python "
                  "process; or a file of its captured activations; default: native")
      ->type_name("SOURCE")
      ->group("Compare");
  command
      .add_option("--candidate", a.options.candidate,
                  "native: its computation here; megatron-core: the library itself, in a Python "
                  "process; or a file of its captured activations; default: native")
      ->type_name("SOURCE")
      ->group("Compare");
  command
      .add_option("--runtime", a.runtime,
                  "whose hidden behaviour counts: none, or megatron-core==VERSION; default: the "
                  "newest known")
      ->type_name("RUNTIME")
      ->group("Compare");
  command
      .add_option("--precision", a.options.precision,
                  "judge the rounding in this dtype too: auto (the checkpoint's), bf16, fp16, none")
      ->type_name("DTYPE")
      ->check(CLI::IsMember({"auto", "bf16", "fp16", "none"}))
      ->capture_default_str()
      ->group("Compare");
  command
      .add_flag("--no-free-run{false}", a.options.free_run,
                "leave out what each model computes from its own states; default: off")
      ->group("Compare");
  command.add_option("--device", a.options.device, "where both models compute: cpu or cuda")
      ->type_name("DEVICE")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str()
      ->group("Compare");
  command
      .add_flag("--without-mtp", a.options.without_mtp,
                "leave multi-token-prediction layers out; default: off")
      ->group("Compare");
  command
      .add_option("--record", a.options.record,
                  "write the activations of both sides to this safetensors file")
      ->type_name("FILE")
      ->group("Compare");
  command
      .add_flag("--overwrite", a.options.overwrite, "replace the file of --record; default: off")
      ->group("Compare");
}

}  // namespace

void AddCompare(CLI::App& app, Context& context) {
  auto a = std::make_shared<CompareArguments>();
  CLI::App* command = app.add_subcommand(
      "compare", "do both models compute the same, layer by layer and module by module");
  AddHfPositional(*command, "HF", a->model);
  command->add_option(std::string("MEGATRON,") + kMegatronSpellings, a->megatron,
                      "a Megatron checkpoint; default: the weights of HF through the mapping, in "
                      "memory");
  AddTokenOptions(*command, *a);
  AddSourceOptions(*command, *a);
  AddJudgementOptions(*command, *a);
  AddGridOptions(*command, a->options.grid);
  command
      ->add_flag("--sequence-parallel", a->options.sequence_parallel,
                 "tensor-parallel ranks hold parts of the sequence between the cut modules; "
                 "default: off")
      ->group("Parallel grid");
  AddRankOptions(*command, a->job);
  AddConfigOption(*command, a->config);
  AddFamilyOption(*command, a->families);
  AddThreadsOption(*command, a->options.threads);
  AddOutputOptions(*command, context);
  AddExamples(*command,
              {"weighbridge compare ./Llama-3.2-1B",
               "weighbridge compare ./Llama-3.2-1B ./checkpoints/llama32_1b --seq-len 128",
               "weighbridge compare ./Llama-3.2-1B --prompt 'The capital of France is'",
               "weighbridge compare ./Llama-3.2-1B --reference transformers --seq-len 64",
               "weighbridge compare ./Llama-3.2-1B ./checkpoints/llama32_1b --tp 2 --pp 2",
               "weighbridge compare ./gemma-2-2b --candidate megatron-run.safetensors"});
  command->callback([&context, a] { context.exit_status = Run(context, *a); });
}

}  // namespace weighbridge::cli
