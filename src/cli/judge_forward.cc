#include "cli/judge_forward.h"

#include <filesystem>
#include <system_error>

#include "base/progress.h"
#include "checks/inventory.h"
#include "checks/megatron_binding.h"
#include "formats/checkpoint.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

Result<fs::path> FolderOf(const std::string& model) {
  WB_TRY(const fs::path path, ResolveModelPath(model));
  std::error_code error;
  if (fs::is_directory(path, error)) return path;
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

Result<ForwardPair> OpenForward(const ForwardArguments& a) {
  ForwardPair pair;
  WB_TRY(pair.input, OpenModelInput(a.model, a.families, a.config));
  const ModelInput& input = *pair.input;
  ExpandOptions expand;
  ChooseStorageBy(*input.checkpoint, expand);
  expand.without_mtp = a.options.without_mtp;
  if (a.megatron.empty()) {
    // A checkpoint's vocabulary is padded as it is stored.
    expand.tp = a.options.grid.tp;
    WB_TRY(pair.model, Model::Expand(*input.family, input.config, expand));
  } else {
    WB_TRY(pair.megatron, OpenMegatron(a.megatron));
    WB_TRY(pair.model,
           ExpandAsStored(*input.family, input.config, std::move(expand), pair.megatron));
  }
  return pair;
}

Result<Report> JudgeForward(const ForwardPair& pair, ForwardArguments& a,
                            const std::string& command) {
  WB_TRY(a.options.runtime, ParseRuntime(a.runtime));
  CompareRequest request;
  WB_TRY(request.folder, FolderOf(a.model));
  request.prompts = a.prompts;
  uint64_t bytes = 0;
  for (const TensorInfo& t : pair.input->checkpoint->tensors()) bytes += t.nbytes;
  Progress progress(command, 2 * bytes);
  a.options.progress = [&](uint64_t n) { progress.Add(n); };
  request.options = a.options;
  WB_TRY(Report report,
         CompareSources(*pair.model, *pair.input->checkpoint, pair.megatron.get(), request));
  DescribeInput(*pair.input, report);
  return report;
}

}  // namespace weighbridge::cli
