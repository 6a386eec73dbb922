#include "engine/parallel/token_dispatcher.h"

#include <numeric>
#include <span>
#include <utility>

namespace weighbridge::engine {
namespace {

using at::Tensor;

int64_t Sum(std::span<const int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

Tensor Joined(const std::vector<Tensor>& parts) {
  return parts.size() == 1 ? parts.front() : at::cat(parts);
}

// The group's tensors one behind the other, whatever their lengths.
Group::Rows Gathered(const Group& group, const Tensor& rows) {
  const auto size = static_cast<size_t>(group.size());
  const std::vector<int64_t> send(size, rows.size(0));
  if (size == 1) return {rows, send};
  return group.AllToAll(at::cat(std::vector<Tensor>(size, rows)), send);
}

// Numbers of the host, sent like tensors on `like`'s device.
std::vector<int64_t> Numbers(const Tensor& x) {
  const Tensor host = x.to(at::kCPU).contiguous();
  return {host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel()};
}

Tensor OnDevice(const std::vector<int64_t>& numbers, const Tensor& like) {
  return at::tensor(numbers, at::TensorOptions().dtype(at::kLong)).to(like.device());
}

}  // namespace

// Rows for this rank's experts: sorted by the expert-tensor-parallel rank and the expert rank that
// sent them, and by expert.
struct TokenDispatcher::Arrived {
  Tensor rows, weights;
  std::vector<int64_t> counts;    // of each sender and expert, in that order
  std::vector<int64_t> received;  // from each expert rank, of those that this rank sends back
  int64_t begin = 0, own = 0;     // these, in `rows`
};

TokenDispatcher::TokenDispatcher(const Place& place, const Tensor& routing)
    : place_(place),
      routing_(routing),
      experts_(routing.size(1)),
      local_experts_(experts_ / place.ep.size()) {
  for (int64_t e = 0; e < experts_; ++e) {
    chosen_.push_back(routing.select(1, e).nonzero().flatten());
    counts_.push_back(chosen_.back().numel());
  }
}

// Of counts for each expert: for each expert rank.
std::vector<int64_t> TokenDispatcher::PerRank(const std::vector<int64_t>& counts) const {
  std::vector<int64_t> sums;
  const std::span all(counts);
  for (size_t at = 0; at < all.size(); at += static_cast<size_t>(local_experts_)) {
    sums.push_back(Sum(all.subspan(at, static_cast<size_t>(local_experts_))));
  }
  return sums;
}

TokenDispatcher::Arrived TokenDispatcher::Dispatch(const Tensor& tokens) const {
  std::vector<Tensor> rows, weights;
  for (int64_t e = 0; e < experts_; ++e) {
    const Tensor& chosen = chosen_[static_cast<size_t>(e)];
    rows.push_back(tokens.index_select(0, chosen));
    weights.push_back(routing_.select(1, e).index_select(0, chosen).unsqueeze(-1));
  }
  const std::vector<int64_t> send = PerRank(counts_);
  const std::vector<int64_t> each(static_cast<size_t>(place_.ep.size()), local_experts_);
  Arrived arrived;
  const std::vector<int64_t> counts =
      Numbers(place_.ep.AllToAll(OnDevice(counts_, tokens), each, each));
  arrived.received = PerRank(counts);
  const Tensor own_rows = place_.ep.AllToAll(at::cat(rows), send, arrived.received);
  const Tensor own_weights = place_.ep.AllToAll(at::cat(weights), send, arrived.received);
  // Ranks that cut the same experts compute all tokens of each other.
  Group::Rows all = Gathered(place_.etp, own_rows);
  arrived.rows = std::move(all.rows);
  arrived.weights = Gathered(place_.etp, own_weights).rows;
  arrived.counts = Numbers(Gathered(place_.etp, OnDevice(counts, tokens)).rows);
  const auto rank = static_cast<size_t>(place_.etp.rank());
  arrived.begin = Sum(std::span(all.counts).first(rank));
  arrived.own = all.counts[rank];
  return arrived;
}

Tensor TokenDispatcher::Combine(const Tensor& tokens, const Tensor& made,
                                const Arrived& arrived) const {
  const Tensor own = place_.etp.AllReduce(made).narrow(0, arrived.begin, arrived.own);
  const Tensor back = place_.ep.AllToAll(own, arrived.received, PerRank(counts_));
  Tensor combined = at::zeros_like(tokens);
  int64_t begin = 0;
  for (size_t e = 0; e < chosen_.size(); ++e) {
    if (counts_[e] > 0) combined.index_add_(0, chosen_[e], back.narrow(0, begin, counts_[e]));
    begin += counts_[e];
  }
  return combined;
}

Tensor TokenDispatcher::Run(const Tensor& tokens, const RunExpert& run) const {
  const Arrived arrived = Dispatch(tokens);
  const int64_t senders = place_.ep.size() * place_.etp.size();
  Tensor made = at::zeros_like(arrived.rows);
  for (int64_t local = 0; local < local_experts_; ++local) {
    std::vector<Range> parts;
    int64_t begin = 0;
    for (int64_t at = 0; at < senders * local_experts_; ++at) {
      const int64_t count = arrived.counts[static_cast<size_t>(at)];
      if (at % local_experts_ == local && count > 0) parts.push_back({begin, count});
      begin += count;
    }
    if (parts.empty()) continue;
    std::vector<Tensor> rows, weights;
    for (const Range& part : parts) {
      rows.push_back(arrived.rows.narrow(0, part.begin, part.count));
      weights.push_back(arrived.weights.narrow(0, part.begin, part.count));
    }
    const Tensor out =
        run(place_.ep.rank() * local_experts_ + local, Joined(rows), Joined(weights));
    int64_t at = 0;
    for (const Range& part : parts) {
      made.narrow(0, part.begin, part.count).copy_(out.narrow(0, at, part.count));
      at += part.count;
    }
  }
  return Combine(tokens, made, arrived);
}

}  // namespace weighbridge::engine
