#include "checks/diagnose/rearrangements.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace weighbridge {
namespace {

constexpr size_t kMostOrders = 120;  // of a tensor's parts

struct Axis {
  int64_t extent, target, source;  // strides in rows
};

// Collects pieces that are given in rows of `columns` elements.
class RowMoves {
 public:
  explicit RowMoves(int64_t columns) : columns_(columns) {}

  void Add(int64_t target, int64_t source, std::vector<Axis> axes) {
    StridedPiece piece;
    piece.target_offset = target * columns_;
    piece.source_offset = source * columns_;
    for (const Axis& a : axes) {
      if (a.extent == 0) return;
      if (a.extent > 1) piece.axes.push_back({a.extent, a.source * columns_, a.target * columns_});
    }
    if (columns_ > 1) piece.axes.push_back({columns_, 1, 1});
    pieces_.push_back(std::move(piece));
  }
  void Block(int64_t target, int64_t source, int64_t rows) { Add(target, source, {{rows, 1, 1}}); }
  std::vector<StridedPiece> Take() && { return std::move(pieces_); }

 private:
  int64_t columns_;
  std::vector<StridedPiece> pieces_;
};

void SortAxes(StridedPiece& piece) {
  std::stable_sort(
      piece.axes.begin(), piece.axes.end(),
      [](const StridedAxis& a, const StridedAxis& b) { return a.target_stride > b.target_stride; });
}

std::vector<StridedPiece> Inverse(std::vector<StridedPiece> pieces) {
  for (StridedPiece& piece : pieces) {
    std::swap(piece.source_offset, piece.target_offset);
    for (StridedAxis& a : piece.axes) std::swap(a.source_stride, a.target_stride);
    SortAxes(piece);
  }
  return pieces;
}

bool IsIdentity(const std::vector<StridedPiece>& pieces) {
  return std::all_of(pieces.begin(), pieces.end(), [](const StridedPiece& piece) {
    return piece.source_offset == piece.target_offset &&
           std::all_of(piece.axes.begin(), piece.axes.end(),
                       [](const StridedAxis& a) { return a.source_stride == a.target_stride; });
  });
}

class Generator {
 public:
  explicit Generator(const TensorForm& form) : form_(form), rows_(form.rows) {
    n_ = form.shape.empty() ? 1 : form.shape[0];
    k_ = n_ == 0 ? 0 : Numel(form.shape) / n_;
  }

  std::vector<Rearrangement> Run() {
    if (n_ == 0 || k_ == 0) return {};
    Orders();
    Concatenated();
    HeadOrders();
    Interleaved();
    CutAsOneBlock();
    Rope();
    Transposed();
    ConvolutionAxes();
    WrongAxis();
    return std::move(found_);
  }

 private:
  void Add(std::string_view cause, std::string what, std::vector<StridedPiece> pieces) {
    for (StridedPiece& piece : pieces) SortAxes(piece);
    if (!IsIdentity(pieces)) found_.push_back({cause, std::move(what), std::move(pieces)});
  }
  void AddBothWays(std::string_view cause, const std::string& what, const std::string& back,
                   std::vector<StridedPiece> pieces) {
    std::vector<StridedPiece> inverse = Inverse(pieces);
    Add(cause, what, std::move(pieces));
    Add(cause, back, std::move(inverse));
  }

  std::string_view OrderCause() const {
    switch (rows_.kind) {
      case RowKind::kGated:
        return "gate-up-swapped";
      case RowKind::kLatent:
        return "kv-latent-order";
      case RowKind::kQkv:
      case RowKind::kMlaUp:
        return "qkv-order";
      default:
        return "packed-order";
    }
  }

  std::vector<int64_t> PartOffsets() const {
    std::vector<int64_t> offsets;
    int64_t at = 0;
    for (const RowPart& part : rows_.parts) {
      offsets.push_back(at);
      at += part.rows;
    }
    return offsets;
  }

  std::string Names(const std::vector<size_t>& order) const {
    std::string text;
    for (size_t i : order) text += (text.empty() ? "" : ", ") + rows_.parts[i].name;
    return text;
  }

  // Parts in another order within each group.
  void Orders() {
    const size_t count = rows_.parts.size();
    if (count < 2) return;
    const auto offsets = PartOffsets();
    const int64_t r = rows_.group_rows();
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    for (size_t tried = 0; std::next_permutation(order.begin(), order.end());) {
      if (++tried > kMostOrders) break;
      RowMoves moves(k_);
      int64_t at = 0;
      for (size_t p : order) {
        const int64_t rows = rows_.parts[p].rows;
        moves.Add(at, offsets[p], {{rows_.groups, r, r}, {rows, 1, 1}});
        at += rows;
      }
      Add(OrderCause(), fmt::format("{}{}", Names(order), rows_.groups > 1 ? " in each group" : ""),
          std::move(moves).Take());
    }
  }

  // Parts whole, one after another, instead of per group; also within each rank's groups.
  void Concatenated() {
    if (rows_.groups < 2 || rows_.parts.size() < 2) return;
    const auto offsets = PartOffsets();
    const int64_t r = rows_.group_rows();
    std::vector<int> sizes = {1};
    sizes.insert(sizes.end(), form_.tp_sizes.begin(), form_.tp_sizes.end());
    for (int t : sizes) {
      if (rows_.groups % t != 0 || rows_.groups / t < 2) continue;
      const int64_t own = rows_.groups / t;
      RowMoves moves(k_);
      for (int rank = 0; rank < t; ++rank) {
        int64_t at = rank * own * r;
        for (size_t p = 0; p < rows_.parts.size(); ++p) {
          const int64_t rows = rows_.parts[p].rows;
          moves.Add(at, rank * own * r + offsets[p], {{own, rows, r}, {rows, 1, 1}});
          at += own * rows;
        }
      }
      const std::string ranks = t > 1 ? fmt::format(", on each of {} ranks", t) : "";
      AddBothWays("qkv-concatenated", "one whole after another, not per group" + ranks,
                  "divided into groups although they were so already" + ranks,
                  std::move(moves).Take());
    }
  }

  // Query heads dealt to the groups in turn.
  void HeadOrders() {
    if (rows_.kind != RowKind::kQkv || rows_.groups < 2) return;
    const RowPart& q = rows_.parts[0];
    if (q.heads < 2) return;
    const int64_t r = rows_.group_rows(), d = q.rows / q.heads, per = q.heads, g = rows_.groups;
    RowMoves moves(k_);
    for (int64_t group = 0; group < g; ++group) {
      for (int64_t j = 0; j < per; ++j) {
        const int64_t head = j * g + group;
        moves.Block(group * r + j * d, head / per * r + head % per * d, d);
      }
      moves.Block(group * r + q.rows, group * r + q.rows, r - q.rows);
    }
    AddBothWays("qkv-head-order", "query heads dealt to the groups in turn",
                "query heads taken from the groups in turn", std::move(moves).Take());
  }

  bool EqualParts() const {
    return rows_.groups == 1 && rows_.parts.size() >= 2 &&
           std::all_of(rows_.parts.begin(), rows_.parts.end(),
                       [&](const RowPart& p) { return p.rows == rows_.parts[0].rows; });
  }

  void Interleaved() {
    if (!EqualParts()) return;
    const auto count = static_cast<int64_t>(rows_.parts.size());
    const int64_t rows = rows_.parts[0].rows;
    const std::string_view cause =
        rows_.kind == RowKind::kGated ? "gate-up-interleaved" : "packed-order";
    for (int64_t block : {1, 8, 16, 32, 64, 128}) {
      if (rows % block != 0 || rows == block) continue;
      RowMoves moves(k_);
      for (int64_t p = 0; p < count; ++p) {
        moves.Add(p * block, p * rows, {{rows / block, count * block, block}, {block, 1, 1}});
      }
      const std::string size = block == 1 ? "rows" : fmt::format("blocks of {} rows", block);
      AddBothWays(cause, size + " of each in turn", size + " taken from each in turn",
                  std::move(moves).Take());
    }
  }

  // A packed tensor cut into even blocks, whatever its parts.
  void CutAsOneBlock() {
    if (rows_.groups != 1 || rows_.parts.size() < 2) return;
    if (rows_.kind != RowKind::kGated && rows_.kind != RowKind::kPacked) return;
    const auto offsets = PartOffsets();
    const std::string_view cause = rows_.kind == RowKind::kGated ? "tp-gate-up" : "tp-packed";
    for (int t : form_.tp_sizes) {
      bool fits = true;
      for (const RowPart& part : rows_.parts) fits = fits && part.rows % t == 0;
      if (!fits) continue;
      RowMoves moves(k_);
      for (size_t p = 0; p < rows_.parts.size(); ++p) {
        const int64_t own = rows_.parts[p].rows / t;
        moves.Add(offsets[p], offsets[p] / t, {{t, own, n_ / t}, {own, 1, 1}});
      }
      AddBothWays(cause, fmt::format("cut into {} even blocks, whatever the parts", t),
                  fmt::format("{} ranks' tensors joined as they are, not part by part", t),
                  std::move(moves).Take());
    }
  }

  // Rotated rows as pairs of neighbours instead of two halves, or the reverse.
  void Rope() {
    std::vector<size_t> rotated;
    for (size_t p = 0; p < rows_.parts.size(); ++p) {
      if (rows_.parts[p].rope >= 4) rotated.push_back(p);
    }
    if (rotated.empty()) return;
    std::vector<std::vector<size_t>> sets = {rotated};
    if (rotated.size() > 1) {
      for (size_t p : rotated) sets.push_back({p});
    }
    for (const auto& set : sets) {
      const RowPart& first = rows_.parts[set[0]];
      const int64_t d = first.rows / first.heads;
      for (int64_t rope : {first.rope, d / 2 * 2, d / 4 * 2}) {
        if (rope < 4 || (rope != first.rope && rope > first.rope && first.rope != d / 4 * 2))
          continue;
        AddRope(set, rope);
        if (d == rope && first.rope == d) break;
      }
    }
  }

  void AddRope(const std::vector<size_t>& set, int64_t rope) {
    const auto offsets = PartOffsets();
    const int64_t r = rows_.group_rows(), g = rows_.groups;
    RowMoves moves(k_);
    for (size_t p = 0; p < rows_.parts.size(); ++p) {
      const RowPart& part = rows_.parts[p];
      const int64_t d = part.rows / part.heads, at = offsets[p];
      if (std::find(set.begin(), set.end(), p) == set.end() || rope > d) {
        moves.Add(at, at, {{g, r, r}, {part.rows, 1, 1}});
        continue;
      }
      moves.Add(at, at, {{g, r, r}, {part.heads, d, d}, {rope / 2, 2, 1}, {2, 1, rope / 2}});
      moves.Add(at + rope, at + rope, {{g, r, r}, {part.heads, d, d}, {d - rope, 1, 1}});
    }
    const std::string names = Names(set);
    AddBothWays("rope-permuted",
                fmt::format("{}: halves of {} rotated rows became pairs", names, rope),
                fmt::format("{}: pairs of {} rotated rows became halves", names, rope),
                std::move(moves).Take());
  }

  void Transposed() {
    if (k_ < 2 || n_ < 2 || form_.convolution) return;
    Add("transposed", fmt::format("[{}, {}] as [{}, {}]", n_, k_, k_, n_),
        {{0, 0, 0, {{k_, 1, n_}, {n_, k_, 1}}}});
    if (n_ != k_) {
      Add("transposed", fmt::format("[{}, {}] read as [{}, {}] and transposed", n_, k_, k_, n_),
          {{0, 0, 0, {{n_, 1, k_}, {k_, n_, 1}}}});
    }
  }

  void ConvolutionAxes() {
    Shape axes;
    for (int64_t extent : form_.shape) {
      if (extent > 1) axes.push_back(extent);
    }
    if (!form_.convolution || axes.size() < 2) return;
    std::vector<size_t> order(axes.size());
    std::iota(order.begin(), order.end(), 0);
    std::vector<int64_t> strides(axes.size(), 1);
    for (size_t i = axes.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * axes[i];
    while (std::next_permutation(order.begin(), order.end())) {
      StridedPiece piece;
      int64_t stride = 1;
      std::string text;
      for (size_t i = order.size(); i-- > 0;) {
        piece.axes.push_back({axes[order[i]], strides[order[i]], stride});
        stride *= axes[order[i]];
      }
      for (size_t i : order) text += fmt::format("{}{}", text.empty() ? "" : ", ", i);
      Add("conv-layout", fmt::format("axes in the order {}", text), {piece});
    }
  }

  // Each rank held a slice of the other axis, as many elements as its own.
  void WrongAxis() {
    if (form_.cut.replicated() || k_ < 2 || form_.shape.size() != 2) return;
    for (int t : form_.tp_sizes) {
      if (n_ % t != 0 || k_ % t != 0 || n_ / t < 2) continue;
      AddBothWays("tp-axis", fmt::format("{} ranks hold columns where rows were to be cut", t),
                  fmt::format("{} ranks hold rows where columns were to be cut", t),
                  {{0, 0, 0, {{t, k_ / t, n_ * k_ / t}, {n_, k_, k_ / t}, {k_ / t, 1, 1}}}});
    }
  }

  const TensorForm& form_;
  const RowStructure& rows_;
  int64_t n_ = 1, k_ = 1;
  std::vector<Rearrangement> found_;
};

}  // namespace

std::vector<Rearrangement> KnownRearrangements(const TensorForm& form) {
  return Generator(form).Run();
}

std::vector<StridedPiece> ShardsInOrder(const Shape& shape, const TensorCut& cut,
                                        const std::vector<int>& order) {
  const auto t = static_cast<int64_t>(order.size());
  const int64_t n = shape.empty() ? 1 : shape[0], k = n == 0 ? 0 : Numel(shape) / n;
  std::vector<StridedPiece> pieces;
  if (cut.axis == 1) {
    const int64_t own = k / t;
    for (size_t i = 0; i < order.size(); ++i) {
      pieces.push_back(
          {0, order[i] * own, static_cast<int64_t>(i) * own, {{n, k, k}, {own, 1, 1}}});
    }
    return pieces;
  }
  RowMoves moves(k);
  const std::vector<int64_t> whole = {n};
  int64_t at = 0;
  for (int64_t component : cut.components.empty() ? whole : cut.components) {
    const int64_t own = component / t;
    for (size_t i = 0; i < order.size(); ++i) {
      moves.Block(at + static_cast<int64_t>(i) * own, at + order[i] * own, own);
    }
    at += component;
  }
  return std::move(moves).Take();
}

std::vector<StridedPiece> RowsShifted(const Shape& shape, int64_t shift) {
  const int64_t n = shape[0], k = Numel(shape) / n;
  const int64_t by = ((shift % n) + n) % n;
  RowMoves moves(k);
  moves.Block(by, 0, n - by);
  if (by > 0) moves.Block(0, n - by, by);
  return std::move(moves).Take();
}

std::vector<StridedPiece> BlocksInOrder(const Shape& shape, int64_t rows,
                                        const std::vector<int64_t>& order) {
  RowMoves moves(Numel(shape) / shape[0]);
  for (size_t i = 0; i < order.size(); ++i) {
    moves.Block(static_cast<int64_t>(i) * rows, order[i] * rows, rows);
  }
  return std::move(moves).Take();
}

PointMap::PointMap(std::vector<StridedPiece> pieces) : pieces_(std::move(pieces)) {
  for (StridedPiece& piece : pieces_) SortAxes(piece);
}

int64_t PointMap::operator()(int64_t target) const {
  for (const StridedPiece& piece : pieces_) {
    int64_t rest = target - piece.target_offset;
    if (rest < 0) continue;
    int64_t source = piece.source_offset;
    for (const StridedAxis& axis : piece.axes) {
      const int64_t i = std::min(rest / axis.target_stride, axis.extent - 1);
      rest -= i * axis.target_stride;
      source += i * axis.source_stride;
    }
    if (rest == 0) return source;
  }
  return -1;
}

}  // namespace weighbridge
