#include "base/ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string_view>

namespace weighbridge {
namespace {

constexpr int kMaxRanks = 65536;

struct Launcher {
  const char* name;
  const char* rank;
  const char* size;
  std::vector<const char*> job;  // what names the job, as far as it is set
  // Set when the other two mean a launch and no mere allocation; nullptr: they always do.
  const char* proof = nullptr;
};

const std::array<Launcher, 5>& Launchers() {
  static const std::array<Launcher, 5> launchers = {{
      {"own", "WEIGHBRIDGE_RANK", "WEIGHBRIDGE_WORLD_SIZE", {}},
      {"torchrun", "RANK", "WORLD_SIZE", {"TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"}},
      {"openmpi",
       "OMPI_COMM_WORLD_RANK",
       "OMPI_COMM_WORLD_SIZE",
       {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"}},
      {"pmi", "PMI_RANK", "PMI_SIZE", {"PMI_JOBID", "SLURM_JOB_ID", "SLURM_STEP_ID"}},
      // In an sbatch script itself SLURM_PROCID is set too; only a step has a number of tasks.
      {"slurm",
       "SLURM_PROCID",
       "SLURM_STEP_NUM_TASKS",
       {"SLURM_JOB_ID", "SLURM_STEP_ID"},
       "SLURM_STEP_ID"},
  }};
  return launchers;
}

bool IsSet(const Environment& environment, const char* name) {
  const char* value = environment(name);
  return value != nullptr && *value != '\0';
}

std::optional<int> Number(const Environment& environment, const char* name) {
  const std::string_view text = environment(name);
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Result<Launch> Read(const Launcher& launcher, const Environment& environment) {
  const auto rank = Number(environment, launcher.rank), size = Number(environment, launcher.size);
  if (!rank || !size || *rank < 0 || *size < 1 || *rank >= *size || *size > kMaxRanks) {
    return Fail(ErrorKind::kUsage, "usage",
                fmt::format("{}={} and {}={} are no rank and number of ranks", launcher.rank,
                            environment(launcher.rank), launcher.size, environment(launcher.size)),
                "", "run alone with --launcher none");
  }
  Launch launch{*rank, *size, "", launcher.name};
  for (const char* name : launcher.job) {
    if (IsSet(environment, name)) launch.job += fmt::format("{}={};", name, environment(name));
  }
  if (IsSet(environment, "WEIGHBRIDGE_JOB_ID")) launch.job = environment("WEIGHBRIDGE_JOB_ID");
  return launch;
}

class OneProcess : public Coordinator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  Result<std::vector<std::string>> Gather(const std::string& text) override {
    return std::vector<std::string>{text};
  }
  Result<std::string> Broadcast(const std::string& text) override { return text; }
  Status Check() override { return {}; }
  Error Abort(const Error& error) override { return error; }
  bool Speaks() override { return true; }
};

}  // namespace

std::vector<std::string> LauncherNames() {
  std::vector<std::string> names = {"auto", "none"};
  for (const Launcher& launcher : Launchers()) names.emplace_back(launcher.name);
  return names;
}

Result<Launch> DetectLaunch(const std::string& launcher, const Environment& environment) {
  if (launcher == "none") return Launch{};
  for (const Launcher& known : Launchers()) {
    if (launcher != "auto" && launcher != known.name) continue;
    const bool there =
        IsSet(environment, known.rank) && IsSet(environment, known.size) &&
        (known.proof == nullptr || launcher != "auto" || IsSet(environment, known.proof));
    if (there) return Read(known, environment);
    if (launcher == "auto") continue;
    return Fail(
        ErrorKind::kUsage, "usage",
        fmt::format("--launcher {}: {} and {} are not set", launcher, known.rank, known.size));
  }
  return Launch{};
}

Status Coordinator::Barrier() {
  WB_TRY([[maybe_unused]] const auto all, Gather(""));
  WB_TRY([[maybe_unused]] const auto text, Broadcast(""));
  return {};
}

std::unique_ptr<Coordinator> Alone() { return std::make_unique<OneProcess>(); }

std::vector<int> AssignByBytes(const std::vector<uint64_t>& bytes, int ranks) {
  std::vector<size_t> order(bytes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return bytes[a] > bytes[b]; });
  std::vector<uint64_t> load(static_cast<size_t>(ranks));
  std::vector<int> owners(bytes.size());
  for (const size_t i : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += bytes[i];
    owners[i] = static_cast<int>(least - load.begin());
  }
  return owners;
}

}  // namespace weighbridge
