// `compare` as it is asked for: prompts of any lengths, and either side native, live or recorded.
// CompareModels takes rows of one length; here they are grouped, run one group after another, and
// joined into one report by the worst.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/result.h"
#include "engine/compare.h"
#include "engine/originals.h"

namespace weighbridge {

struct CompareRequest {
  std::filesystem::path folder;      // of the Hugging Face model
  std::vector<std::string> prompts;  // text; besides options.token_ids
  // reference: "" or "native", "transformers", else a file; candidate: "" or "native",
  // "megatron-core", else a file. token_ids may be of different lengths.
  CompareOptions options;
};

// Errors: those of CompareModels, Tokenize, RecordTransformers and RecordMegatronCore; kUsage for
// options that contradict each other.
Result<Report> CompareSources(const Model& model, const Checkpoint& hf,
                              const MegatronCheckpoint* megatron, const CompareRequest& request);

// Reports on the same modules, each with what its rows are called, as one: of a module the worst
// row stays, and what only some say is said with whose it is. At least one.
struct LabelledReport {
  std::string label;
  Report report;
};
Report JoinByWorst(std::vector<LabelledReport> parts);

}  // namespace weighbridge
