#include "checks/diagnose/readings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <utility>

namespace weighbridge {
namespace {

constexpr std::string_view kMisaligned = "scale-misaligned";
constexpr int64_t kUsualBlock = 128;
constexpr int64_t kMostMatrices = 1024;
constexpr size_t kMostDonors = 1024;

class Lister {
 public:
  explicit Lister(const QuantizedTensor& q) : q_(q) {}

  std::vector<CodeReading> List() {
    AddScales();
    if (BitsOf(q_.format) == 4) AddNibbles();
    if (q_.grid.rows * q_.grid.columns > 1) AddBlocks();
    AddMatrices();
    return std::move(out_);
  }

 private:
  QuantizedTensor& Add(std::string_view cause, std::string what) {
    out_.push_back({cause, std::move(what), q_});
    return out_.back().tensor;
  }

  void AddScales() {
    using Scales = Misreading::Scales;
    Add("scale-ignored", "the codes taken for the values").misreading.scales = Scales::kIgnored;
    Add("scale-inverted", "the codes divided by their scales").misreading.scales =
        Scales::kInverted;
    if (!q_.global_scale.empty()) {
      Add("scale-ignored", "the scale of the scales left out").global_scale = {};
      Add("scale-inverted", q_.global_divides ? "multiplied with the scale of the scales"
                                              : "divided by the scale of the scales")
          .global_divides = !q_.global_divides;
    }
    if (!q_.zero_points.empty()) {
      Add("scale-ignored", "the zero points left out").zero_points = {};
    }
  }

  void AddNibbles() {
    using Nibbles = Misreading::Nibbles;
    const auto add = [&](Nibbles nibbles, const char* what, int64_t group = 0) {
      Misreading& misreading = Add("nibble-order", what).misreading;
      misreading.nibbles = nibbles;
      misreading.nibble_group = group;
    };
    add(Nibbles::kHighFirst, "the high code of each byte first");
    if (q_.format == CodeFormat::kInt4Offset) {
      add(Nibbles::kReversed, "the eight codes of each int32 from the last to the first");
      add(Nibbles::kAwq, "the eight codes of each int32 in AWQ's order");
      add(Nibbles::kAwqInverse, "the eight codes of each int32 in the inverse of AWQ's order");
    }
    if (q_.pitch % 2 != 0) return;
    add(Nibbles::kHalves, "of each row all low codes, then all high ones", q_.pitch);
    const int64_t group = q_.grid.block_columns;
    if (group % 2 != 0 || group == q_.pitch || q_.pitch % group != 0) return;
    add(Nibbles::kHalves, "of each group all low codes, then all high ones", group);
  }

  // `order` of the scales and, where there are zero points, also of the scales alone.
  void AddOrder(std::string what, ScaleOrder order) {
    if (!q_.zero_points.empty()) {
      Misreading& alone = Add(kMisaligned, what + ", the zero points as they are").misreading;
      alone.order = order;
      alone.own_zero_points = true;
    }
    Add(kMisaligned, std::move(what)).misreading.order = order;
  }

  void AddBlocks() {
    using Kind = ScaleOrder::Kind;
    const int64_t rows = q_.grid.rows, columns = q_.grid.columns;
    AddShifts();
    if (rows > 1 && columns > 1) {
      AddOrder("the grid of scales transposed", {Kind::kColumnMajor});
      AddOrder("the grid of scales transposed and read row by row", {Kind::kRowMajorOfTransposed});
    }
    if (q_.rows() == q_.columns()) {
      AddOrder("the scales of rows taken for columns", {Kind::kTransposedMatrix});
    }
    if ((rows > 1 && q_.grid.block_rows > 1) || (columns > 1 && q_.grid.block_columns > 1)) {
      AddOrder("the grid of scales repeated, its elements not", {Kind::kTiled});
    }
    AddShards(
        rows, [](int64_t n) { return ScaleOrder{.rows = n}; }, "rows");
    AddShards(
        columns, [](int64_t n) { return ScaleOrder{.columns = n}; }, "columns");
    if (rows > 2 && rows % 2 == 0) {
      AddOrder("scales in halves over rows that alternate", {Kind::kHalved});
      AddOrder("alternating scales over rows in halves", {Kind::kAlternating});
    }
    AddOtherBlocks();
  }

  void AddShifts() {
    using Kind = ScaleOrder::Kind;
    for (const int64_t step : {int64_t{1}, int64_t{-1}}) {
      const char* which = step > 0 ? "next" : "previous";
      if (q_.grid.rows > 1) {
        const std::string what =
            fmt::format("each row of blocks under the scales of the {}", which);
        AddOrder(what, {.kind = Kind::kShifted, .rows = step});
        AddOrder(what + ", the last twice", {.kind = Kind::kClamped, .rows = step});
      }
      if (q_.grid.columns > 1) {
        const std::string what =
            fmt::format("each column of blocks under the scales of the {}", which);
        AddOrder(what, {.kind = Kind::kShifted, .columns = step});
        AddOrder(what + ", the last twice", {.kind = Kind::kClamped, .columns = step});
      }
      if (q_.grid.rows > 1 && q_.grid.columns > 1) {
        AddOrder(fmt::format("each block under the scale {} in memory", which),
                 {.kind = Kind::kShiftedFlat, .columns = step});
      }
    }
  }

  // A rank that holds a part of the codes, and another part of the scales.
  template <typename Along>
  void AddShards(int64_t extent, const Along& along, const char* axis) {
    for (const int64_t ranks : {2, 4, 8}) {
      if (extent % ranks != 0) continue;
      const int64_t part = extent / ranks;
      for (int64_t by = 1; by < ranks; ++by) {
        ScaleOrder order = along(by * part);
        order.kind = ScaleOrder::Kind::kShifted;
        AddOrder(
            fmt::format("{} cut for {} ranks, the scales of the rank {} further", axis, ranks, by),
            order);
      }
      ScaleOrder first = along(part);
      first.kind = ScaleOrder::Kind::kRepeated;
      if (first.rows == 0) first.rows = q_.grid.rows;
      if (first.columns == 0) first.columns = q_.grid.columns;
      AddOrder(fmt::format("{} cut for {} ranks, the scales of the first on all", axis, ranks),
               first);
    }
  }

  // Blocks of another size that give the same number of scales.
  void AddOtherBlocks() {
    const auto sizes = [](int64_t extent, int64_t blocks, int64_t own) {
      std::vector<int64_t> out = {own};
      if (extent % blocks == 0 && extent / blocks != own) out.push_back(extent / blocks);
      if ((extent + kUsualBlock - 1) / kUsualBlock == blocks &&
          std::find(out.begin(), out.end(), kUsualBlock) == out.end()) {
        out.push_back(kUsualBlock);
      }
      return out;
    };
    const ScaleGrid& grid = q_.grid;
    for (const int64_t r : sizes(q_.rows(), grid.rows, grid.block_rows)) {
      for (const int64_t c : sizes(q_.columns(), grid.columns, grid.block_columns)) {
        if (r == grid.block_rows && c == grid.block_columns) continue;
        ScaleGrid& other =
            Add(kMisaligned, fmt::format("blocks of {} x {} taken for blocks of {} x {}",
                                         grid.block_rows, grid.block_columns, r, c))
                .grid;
        other.block_rows = r;
        other.block_columns = c;
      }
    }
  }

  // Of stacked experts.
  void AddMatrices() {
    const int64_t matrices = q_.grid.shared ? 1 : q_.matrices();
    for (int64_t by = 1; by < std::min(matrices, kMostMatrices); ++by) {
      AddOrder(fmt::format("each expert under the scales of the expert {} further", by),
               {.kind = ScaleOrder::Kind::kShifted, .matrices = by});
    }
  }

  const QuantizedTensor& q_;
  std::vector<CodeReading> out_;
};

bool SameBytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

bool Fits(const QuantizedTensor& q, const QuantizedTensor& donor) {
  return q.format == donor.format && q.scale_dtype == donor.scale_dtype &&
         q.scale_format == donor.scale_format && q.scales.size() == donor.scales.size() &&
         q.grid.rows == donor.grid.rows && q.grid.columns == donor.grid.columns &&
         q.global_scale.size() == donor.global_scale.size() &&
         q.global_divides == donor.global_divides &&
         q.zero_points.size() == donor.zero_points.size();
}

// All scales of `donor`, or some of them and the others of `q`.
void AddDonor(const QuantizedTensor& q, const QuantizedTensor& donor, const std::string& name,
              std::vector<CodeReading>& out) {
  const bool scales = !SameBytes(q.scales, donor.scales);
  const bool global = !SameBytes(q.global_scale, donor.global_scale);
  const bool zero_points = !SameBytes(q.zero_points, donor.zero_points);
  const auto add = [&](const std::string& what, bool take_scales, bool take_global,
                       bool take_zero_points) {
    CodeReading reading{kMisaligned, fmt::format("{} of {}", what, name), q};
    if (take_scales) reading.tensor.scales = donor.scales;
    if (take_global) reading.tensor.global_scale = donor.global_scale;
    if (take_zero_points) reading.tensor.zero_points = donor.zero_points;
    out.push_back(std::move(reading));
  };
  if (scales || global || zero_points) add("the scales", true, true, true);
  if (scales && (global || zero_points)) {
    add("the scales, and not what belongs to them,", true, false, false);
  }
  if (scales && global) add("the scale of the scales", false, true, false);
  if (scales && zero_points) add("the zero points", false, false, true);
}

struct Piece {
  size_t begin = 0, end = 0;
};

// Where digits stand in a name.
std::vector<Piece> NumbersIn(std::string_view name) {
  std::vector<Piece> out;
  for (size_t i = 0; i < name.size(); ++i) {
    if (std::isdigit(static_cast<unsigned char>(name[i])) == 0) continue;
    if (out.empty() || out.back().end != i || i == 0) out.push_back({i, i});
    out.back().end = i + 1;
  }
  // Part of a word, as in "w1": no number.
  std::erase_if(out, [&](const Piece& p) { return p.begin == 0 || name[p.begin - 1] != '.'; });
  return out;
}

// What a tensor has in common with those whose scales it may have been given: its name but for one
// number, or all of its numbers.
struct Kinship {
  std::string key;
  size_t other_end = 0;  // where the number that differs ends; 0: none does
};

std::vector<Kinship> KinshipsOf(const std::string& name) {
  std::vector<Kinship> out;
  std::string numbers = "#";
  for (const Piece& p : NumbersIn(name)) {
    out.push_back({name.substr(0, p.begin) + "*" + name.substr(p.end), p.end});
    numbers += name.substr(p.begin, p.end - p.begin) + ".";
  }
  out.push_back({std::move(numbers), 0});
  return out;
}

// "the same tensor of model.layers.3", where only the layer differs.
std::string DonorText(const std::string& name, const Kinship& kinship, const std::string& own) {
  if (kinship.other_end == 0) return name;
  const size_t tail = own.size() - kinship.other_end;
  return "the same tensor of " + name.substr(0, name.size() - tail);
}

}  // namespace

std::vector<CodeReading> OwnReadings(const QuantizedTensor& q) { return Lister(q).List(); }

ScaleDonors::ScaleDonors(const Checkpoint& hf) : hf_(hf) {
  for (const TensorInfo& t : hf.tensors()) {
    if (hf.Quantized(t) == nullptr) continue;
    for (Kinship& kinship : KinshipsOf(t.name)) alike_[std::move(kinship.key)].push_back(&t);
  }
}

std::vector<CodeReading> ScaleDonors::ReadingsOf(const TensorInfo& tensor) const {
  const QuantizedTensor& q = *hf_.Quantized(tensor);
  std::vector<CodeReading> out;
  for (const Kinship& kinship : KinshipsOf(tensor.name)) {
    const auto others = alike_.find(kinship.key);
    if (others == alike_.end()) continue;
    for (const TensorInfo* other : others->second) {
      if (other->name == tensor.name || out.size() >= kMostDonors) continue;
      const QuantizedTensor& donor = *hf_.Quantized(*other);
      if (Fits(q, donor)) AddDonor(q, donor, DonorText(other->name, kinship, tensor.name), out);
    }
  }
  return out;
}

}  // namespace weighbridge
