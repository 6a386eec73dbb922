// The folders of Megatron's legacy `torch` format: iter_N/mp_rank_TP[_PP][_EP]. FORMAT.md has the
// rules.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weighbridge {

// The file in each of them.
inline constexpr const char* kRankFileName = "model_optim_rng.pt";

struct RankFolder {
  std::string name;          // "mp_rank_01_000"
  std::vector<int> numbers;  // {1, 0}: tensor rank, then pipeline rank or expert rank or both
};

// {} for another name, and for numbers that no launch has.
RankFolder ParseRankFolder(std::string_view name);

// All of them, sorted. kNotFound when there is none; kCorrupt "header-corrupt" when their names
// have different counts of numbers, or two name the same rank.
Result<std::vector<RankFolder>> FindRankFolders(const std::filesystem::path& iteration);

// As megatron.training.checkpointing.get_checkpoint_name names it: the pipeline rank only where
// there are several stages, the expert rank only where experts are divided.
std::string RankFolderName(int tp, int pp, int ep, int pp_size, int ep_size);

}  // namespace weighbridge
