// Which files of a folder are the model: names only, no content is read.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace weighbridge {

struct WeightFiles {
  std::filesystem::path folder;
  std::string index;               // name of the index file, or ""
  std::vector<std::string> names;  // without an index: the files to read, sorted
  std::vector<std::string>
      present;  // every *.safetensors of the folder, sorted; empty for a single file

  // Present files that are not among `used`.
  std::vector<std::filesystem::path> ExtraFiles(const std::vector<std::string>& used) const;
  // kUsage when the folder has a model.safetensors that the index does not name: transformers reads
  // that file, other readers follow the index.
  Status CheckAgainstIndex(const std::vector<std::string>& shards) const;
};

// True when the folder has at least one *.safetensors or *.safetensors.index.json.
bool HoldsSafetensors(const std::filesystem::path& folder);

// Applies the rules of reader.h's OpenSafetensors. Errors: kNotFound (no weights), kUsage (two
// sets), kCorrupt shard-missing (a set NAME-0000i-of-0000N with gaps).
Result<WeightFiles> ChooseWeightFiles(const std::filesystem::path& path);

// True for two shards NAME-0000i-of-0000N of one series.
bool SameSeries(std::string_view a, std::string_view b);

// The command that completes a folder of the Hugging Face cache, a general sentence elsewhere.
std::string DownloadHint(const std::filesystem::path& folder);

}  // namespace weighbridge
