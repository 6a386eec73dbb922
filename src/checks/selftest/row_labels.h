// What each row of a Megatron parameter is, row by row: written apart from what the search assumes
// (checks/diagnose/row_structure.h), so that the two can contradict each other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "family/model.h"

namespace weighbridge {

enum class RowsAre {
  kPlain,
  kAttention,
  kMlaQuery,
  kMlaKeyValue,
  kLatent,
  kGated,
  kPacked,
  kHeads
};

struct RowLabel {
  int part = 0;
  // The query group, the head among all heads of the part, and the row in the head. Where there are
  // no heads: 0, 0, the row in the part.
  int64_t group = 0, head = 0, channel = 0;
};

struct LabelledRows {
  RowsAre kind = RowsAre::kPlain;
  std::vector<std::string> parts;
  std::vector<int64_t> rotated;  // of each part: how many channels of a head RoPE rotates
  std::vector<bool> padding;     // of each part: zeros that no HF tensor feeds
  std::vector<RowLabel> rows;

  int64_t groups() const { return rows.empty() ? 0 : rows.back().group + 1; }
};

LabelledRows LabelRows(const Model& model, const Parameter& p);

}  // namespace weighbridge
