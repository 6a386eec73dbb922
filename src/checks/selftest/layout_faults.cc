#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "checks/selftest/tensor_faults.h"

namespace weighbridge {
namespace {

using Rows = std::shared_ptr<const LabelledRows>;
using Key = std::array<int64_t, 5>;
// Where the row stands that the tensor gets at `row`.
using RowOf = std::function<int64_t(int64_t row)>;

constexpr std::array<int64_t, 3> kRanks = {2, 4, 8};

// The rows in the order of a key; rows of equal keys stay as they are.
std::vector<int64_t> Sorted(const LabelledRows& rows,
                            const std::function<Key(const RowLabel&)>& key) {
  std::vector<int64_t> order(rows.rows.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return key(rows.rows[static_cast<size_t>(a)]) < key(rows.rows[static_cast<size_t>(b)]);
  });
  return order;
}

std::vector<int64_t> Inverse(const std::vector<int64_t>& order) {
  std::vector<int64_t> back(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    back[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
  }
  return back;
}

class LayoutFaults {
 public:
  LayoutFaults(const FaultyTensor& tensor, std::vector<TensorFlaw>& out)
      : p_(tensor.parameter), rows_(tensor.rows), out_(out) {
    n_ = p_.shape.empty() ? 1 : p_.shape[0];
    k_ = n_ == 0 ? 0 : Numel(p_.shape) / n_;
  }

  void Add() {
    if (n_ < 2 || k_ == 0) return;
    switch (rows_->kind) {
      case RowsAre::kAttention:
        Attention();
        break;
      case RowsAre::kMlaKeyValue:
        KeysWhole(1);
        PartOrders("qkv-order");
        break;
      case RowsAre::kLatent:
        PartOrders("kv-latent-order");
        break;
      case RowsAre::kGated:
        Gated();
        break;
      case RowsAre::kPacked:
        PartOrders("packed-order");
        CutAsOneBlock("tp-packed");
        break;
      default:
        break;
    }
    Rope();
    Shards();
    WrongAxis();
    Transposed();
    Convolution();
    Vocabulary();
  }

 private:
  void FromRows(std::string_view cause, std::string what, RowOf source) {
    out_.push_back({cause, std::move(what), [source, k = k_](const HeldTensor& t, Random&) {
                      return t.Rearranged([&](int64_t e) { return source(e / k) * k + e % k; });
                    }});
  }

  void SortedRows(std::string_view cause, const std::string& what,
                  std::function<Key(const RowLabel&)> key, bool both_ways = false) {
    const auto add = [&](const std::string& text, bool back) {
      out_.push_back({cause, text, [rows = rows_, key, back, k = k_](const HeldTensor& t, Random&) {
                        std::vector<int64_t> order = Sorted(*rows, key);
                        if (back) order = Inverse(order);
                        return t.Rearranged([&](int64_t e) {
                          return order[static_cast<size_t>(e / k)] * k + e % k;
                        });
                      }});
    };
    add(what, false);
    if (both_ways) add(what + ", the way back", true);
  }

  void FromElements(std::string_view cause, std::string what,
                    std::function<int64_t(int64_t)> source) {
    out_.push_back({cause, std::move(what),
                    [source](const HeldTensor& t, Random&) { return t.Rearranged(source); }});
  }

  void Attention() {
    for (const int64_t ranks : {1, 2, 4}) KeysWhole(ranks);
    PartOrders("qkv-order");
    if (rows_->parts.size() == 4) {
      // As Hugging Face has a gated query: each head's query, then its gate.
      SortedRows("qkv-order", "query and gate by head", [](const RowLabel& r) {
        return Key{r.group, r.part > 1 ? r.part : 0, r.head, r.part, r.channel};
      });
    }
    if (rows_->parts[0] == "query") HeadOrders();
  }

  // All query rows, then all key rows, then all value rows; also on each rank.
  void KeysWhole(int64_t ranks) {
    const int64_t groups = rows_->groups();
    if (groups % ranks != 0) return;
    SortedRows(
        "qkv-concatenated", fmt::format("parts whole on {} rank(s)", ranks),
        [own = groups / ranks](const RowLabel& r) {
          return Key{r.group / own, r.part, r.group, r.head, r.channel};
        },
        true);
  }

  void PartOrders(std::string_view cause) {
    std::vector<int64_t> place(rows_->parts.size());
    std::iota(place.begin(), place.end(), 0);
    for (int made = 0; made < 24 && std::next_permutation(place.begin(), place.end()); ++made) {
      SortedRows(cause, fmt::format("parts at the places {}", fmt::join(place, ", ")),
                 [place](const RowLabel& r) {
                   return Key{r.group, place[static_cast<size_t>(r.part)], 0, 0, 0};
                 });
    }
  }

  void HeadOrders() {
    int64_t heads = 0, query_rows = 0;
    for (const RowLabel& r : rows_->rows) {
      if (r.part != 0) continue;
      heads = std::max(heads, r.head + 1);
      ++query_rows;
    }
    const int64_t groups = rows_->groups(), per = heads / groups, d = query_rows / heads;
    const auto row_of = [rows = rows_](int64_t head, int64_t channel) {
      for (size_t i = 0; i < rows->rows.size(); ++i) {
        const RowLabel& r = rows->rows[i];
        if (r.part == 0 && r.head == head && r.channel == channel) return static_cast<int64_t>(i);
      }
      return int64_t{0};
    };
    const auto heads_from = [&](const std::string& what,
                                const std::function<int64_t(int64_t)>& source) {
      if (per < 2) return;  // a head each: another group is another place for all of it
      FromRows("qkv-head-order", what, [rows = rows_, row_of, source](int64_t row) {
        const RowLabel& r = rows->rows[static_cast<size_t>(row)];
        return r.part == 0 ? row_of(source(r.head), r.channel) : row;
      });
    };
    if (d == 0) return;
    heads_from("heads dealt to the groups", [=](int64_t h) { return h % per * groups + h / per; });
    heads_from("heads taken from the groups in turn",
               [=](int64_t h) { return h % groups * per + h / groups; });
    heads_from("first and last head swapped", [=](int64_t h) {
      return h == 0 ? heads - 1 : h == heads - 1 ? 0 : h;
    });
    heads_from("heads moved on by one", [=](int64_t h) { return (h + 1) % heads; });
  }

  void Gated() {
    const int64_t half = n_ / 2;
    FromRows("gate-up-swapped", "up first", [=](int64_t row) { return (row + half) % (2 * half); });
    for (const int64_t block : {1, 8, 16, 32, 64, 128}) {
      if (half % block != 0 || half == block) continue;
      const auto alternating = [=](int64_t row) {
        const int64_t number = row / block;
        return number % 2 * half + number / 2 * block + row % block;
      };
      FromRows("gate-up-interleaved", fmt::format("blocks of {} alternate", block), alternating);
      FromRows("gate-up-interleaved", fmt::format("blocks of {} as if they alternated", block),
               [=](int64_t row) {
                 const int64_t within = row % half;
                 return (within / block * 2 + row / half) * block + within % block;
               });
    }
    CutAsOneBlock("tp-gate-up");
  }

  // Each rank holds an even block of the whole; it is read as if it held its share of each part.
  void CutAsOneBlock(std::string_view cause) {
    const std::vector<int64_t> sizes = p_.cut.components;
    for (const int64_t ranks : kRanks) {
      const bool even =
          std::all_of(sizes.begin(), sizes.end(), [&](int64_t size) { return size % ranks == 0; });
      if (!even || sizes.empty()) continue;
      std::vector<int64_t> block;  // the row of the whole, by what a rank reads
      block.resize(static_cast<size_t>(n_));
      for (int64_t rank = 0; rank < ranks; ++rank) {
        int64_t in_rank = rank * (n_ / ranks), begin = 0;
        for (const int64_t size : sizes) {
          for (int64_t i = 0; i < size / ranks; ++i) {
            block[static_cast<size_t>(begin + rank * (size / ranks) + i)] = in_rank++;
          }
          begin += size;
        }
      }
      const auto from = [](std::vector<int64_t> order) {
        return [order = std::move(order)](int64_t row) { return order[static_cast<size_t>(row)]; };
      };
      FromRows(cause, fmt::format("{} even blocks read as shares of the parts", ranks),
               from(block));
      FromRows(cause, fmt::format("shares of the parts of {} ranks joined as they are", ranks),
               from(Inverse(block)));
    }
  }

  void Rope() {
    bool any = false;
    for (const int64_t rotated : rows_->rotated) any = any || rotated >= 4;
    if (!any) return;
    const auto add = [&](const std::string& what, int only) {
      for (const bool pairs : {true, false}) {
        FromRows("rope-permuted", what + (pairs ? ": pairs of halves" : ": halves of pairs"),
                 [rows = rows_, only, pairs](int64_t row) {
                   const RowLabel& r = rows->rows[static_cast<size_t>(row)];
                   const int64_t rotated = rows->rotated[static_cast<size_t>(r.part)];
                   if ((only >= 0 && r.part != only) || r.channel >= rotated) return row;
                   const int64_t half = rotated / 2;
                   const int64_t source = pairs ? r.channel % 2 * half + r.channel / 2
                                                : r.channel % half * 2 + r.channel / half;
                   return row - r.channel + source;
                 });
      }
    };
    add("all", -1);
    for (size_t part = 0; part < rows_->parts.size(); ++part) {
      if (rows_->parts.size() > 1 && rows_->rotated[part] >= 4 && !rows_->padding[part]) {
        add(rows_->parts[part], static_cast<int>(part));
      }
    }
  }

  // Which shard stands where shard i belongs.
  void Shards() {
    if (p_.cut.replicated() || p_.cut.axis > 1) return;
    for (const int64_t ranks : {2, 4}) {
      AddShards(ranks, "in reverse", [=](int64_t i) { return ranks - 1 - i; });
      if (ranks > 2)
        AddShards(ranks, "moved on by one", [=](int64_t i) { return (i + 1) % ranks; });
      AddShards(ranks, "the first one twice", [](int64_t i) { return i == 1 ? 0 : i; });
    }
  }

  void AddShards(int64_t ranks, const std::string& what,
                 const std::function<int64_t(int64_t)>& shard) {
    const std::string text = fmt::format("{} shards, {}", ranks, what);
    if (p_.cut.axis == 1) {
      if (k_ % ranks != 0 || p_.shape.size() != 2) return;
      FromElements("tp-order", text, [=, k = k_](int64_t e) {
        const int64_t own = k / ranks, column = e % k;
        return e - column + shard(column / own) * own + column % own;
      });
      return;
    }
    std::vector<int64_t> sizes = p_.cut.components;
    if (sizes.empty()) sizes = {n_};
    if (rows_->kind == RowsAre::kAttention && rows_->groups() % ranks != 0) return;
    for (const int64_t size : sizes) {
      if (size % ranks != 0) return;
    }
    FromRows("tp-order", text, [=](int64_t row) {
      int64_t begin = 0;
      for (const int64_t size : sizes) {
        if (row < begin + size) {
          const int64_t own = size / ranks, within = row - begin;
          return begin + shard(within / own) * own + within % own;
        }
        begin += size;
      }
      return row;
    });
  }

  // Each rank cut the other axis; the ranks' elements are read as the shape that was meant.
  void WrongAxis() {
    if (p_.cut.replicated() || p_.shape.size() != 2 || !p_.cut.components.empty()) return;
    for (const int64_t ranks : kRanks) {
      if (n_ % ranks != 0 || k_ % ranks != 0 || n_ / ranks < 2 || k_ / ranks < 2) continue;
      const int64_t n = n_, k = k_;
      if (p_.cut.axis == 0) {
        FromElements("tp-axis", fmt::format("columns of {} ranks", ranks), [=](int64_t e) {
          const int64_t own = k / ranks, rank = e / (n * own), within = e % (n * own);
          return within / own * k + rank * own + within % own;
        });
      } else {
        FromElements("tp-axis", fmt::format("rows of {} ranks", ranks), [=](int64_t e) {
          const int64_t own = k / ranks, rank = e % k / own;
          return rank * (n / ranks) * k + e / k * own + e % own;
        });
      }
    }
  }

  bool IsConvolution() const {
    return p_.shape.size() > 2 || p_.rule->megatron.find("conv1d") != std::string::npos;
  }

  void Transposed() {
    if (p_.shape.size() != 2 || k_ < 2 || IsConvolution()) return;
    FromElements("transposed", "written transposed",
                 [n = n_, k = k_](int64_t e) { return e % n * k + e / n; });
    if (n_ != k_) {
      FromElements("transposed", "read with its axes swapped, then transposed",
                   [n = n_, k = k_](int64_t e) { return e % k * n + e / k; });
    }
  }

  void Convolution() {
    Shape axes;
    for (const int64_t extent : p_.shape) {
      if (extent > 1) axes.push_back(extent);
    }
    if (!IsConvolution() || axes.size() < 2) return;
    std::vector<size_t> order(axes.size());
    std::iota(order.begin(), order.end(), 0);
    for (int made = 0; made < 6 && std::next_permutation(order.begin(), order.end()); ++made) {
      FromElements("conv-layout", fmt::format("axes {}", fmt::join(order, ", ")),
                   [axes, order](int64_t e) {
                     std::vector<int64_t> index(axes.size());
                     for (size_t i = order.size(); i-- > 0;) {
                       index[order[i]] = e % axes[order[i]];
                       e /= axes[order[i]];
                     }
                     int64_t source = 0;
                     for (size_t i = 0; i < axes.size(); ++i) source = source * axes[i] + index[i];
                     return source;
                   });
    }
  }

  void Vocabulary() {
    const std::string& name = p_.rule->megatron;
    if (!name.ends_with("word_embeddings.weight") && !name.ends_with("output_layer.weight")) return;
    for (const int64_t shift : {1, 2, 5}) {
      FromRows("vocab-shifted", fmt::format("down by {}, wrapped", shift),
               [shift, n = n_](int64_t row) { return (row + n - shift) % n; });
      FromRows("vocab-shifted", fmt::format("up by {}, wrapped", shift),
               [shift, n = n_](int64_t row) { return (row + shift) % n; });
      out_.push_back({"vocab-shifted", fmt::format("down by {}, zeros above", shift),
                      [shift, k = k_](const HeldTensor& t, Random&) {
                        HeldTensor out = t;
                        for (int64_t e = 0; e < t.numel(); ++e) {
                          out.SetBits(e, e < shift * k ? 0 : t.Bits(e - shift * k));
                        }
                        return out;
                      }});
    }
  }

  const Parameter& p_;
  const Rows rows_;
  std::vector<TensorFlaw>& out_;
  int64_t n_ = 1, k_ = 1;
};

}  // namespace

void AddLayoutFaults(const FaultyTensor& tensor, std::vector<TensorFlaw>& out) {
  LayoutFaults(tensor, out).Add();
}

std::vector<TensorFlaw> TensorFlaws(const FaultyTensor& tensor) {
  std::vector<TensorFlaw> out;
  AddLayoutFaults(tensor, out);
  AddValueFaults(tensor, out);
  return out;
}

}  // namespace weighbridge
