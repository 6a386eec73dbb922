// The files beside a model's weights: tokenizer, generation config, model card.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/atomic_output.h"
#include "base/result.h"

namespace weighbridge {

// The names, sorted, of the files of `source` that go along with a copy of the model: no weights,
// no config.json, at most 64 MiB each. Links of the Hugging Face cache are followed. What is left
// out is told in `notes`.
Result<std::vector<std::string>> FilesBeside(const std::filesystem::path& source,
                                             std::vector<std::string>& notes);

Status CopyFiles(const std::filesystem::path& source, const std::vector<std::string>& names,
                 const AtomicDirectory& target);

// kUsage when `target` is `source` or a folder above it: replacing it would lose the source.
Status RefuseSourceAsTarget(const std::filesystem::path& source,
                            const std::filesystem::path& target);

}  // namespace weighbridge
