// The original libraries as a side of `compare`: each writes the recording (docs/compare.md) that
// stands in for that side's computation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "family/model.h"
#include "formats/megatron_checkpoint.h"

namespace weighbridge {

using TokenRows = std::vector<std::vector<int64_t>>;

struct Tokenized {
  TokenRows ids;
  std::string made_by;  // "tokenizers 0.23.3, python 3.12.3"
};

// Texts as the token ids that transformers makes of them, special tokens included. Errors: kUsage
// for a text that is not UTF-8 or has no token; kNotFound "tokenizer-missing" without
// tokenizer.json in `folder`; those of CallPython.
Result<Tokenized> Tokenize(const std::filesystem::path& folder,
                           const std::vector<std::string>& texts);

// Rows of one length, and the file for what was recorded on them.
struct RecordingJob {
  TokenRows ids;
  std::filesystem::path file;
};

// Hidden states and logits in float32 on the CPU. Both return what made them, with versions, for
// the report. Errors: those of CallPython; kUnsupported for a checkpoint that the library does not
// load.
Result<std::string> RecordTransformers(const std::filesystem::path& folder,
                                       const std::vector<RecordingJob>& jobs, int threads);
Result<std::string> RecordMegatronCore(const Model& model, const MegatronCheckpoint& megatron,
                                       const std::vector<RecordingJob>& jobs, int threads);

}  // namespace weighbridge
