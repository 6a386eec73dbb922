#include "engine/forward/next_tokens.h"

#include <algorithm>
#include <vector>

namespace weighbridge::engine {
namespace {

using at::Tensor;
using nlohmann::json;

constexpr int64_t kTokensPerBlock = 16;  // logits are wide

}  // namespace

void NextTokens::Add(const Tensor& candidate, const Tensor& reference, double noise) {
  for (int64_t begin = 0; begin < reference.size(0); begin += kTokensPerBlock) {
    const int64_t count = std::min(kTokensPerBlock, reference.size(0) - begin);
    AddBlock(candidate.narrow(0, begin, count).to(at::kDouble),
             reference.narrow(0, begin, count).to(at::kDouble), noise);
  }
}

void NextTokens::AddBlock(const Tensor& c, const Tensor& r, double noise) {
  const Tensor top = r.argmax(-1), other = c.argmax(-1);
  const auto picked = [&](const Tensor& index) {
    return r.gather(-1, index.unsqueeze(-1)).squeeze(-1);
  };
  const Tensor margin = picked(top) - picked(other);
  const Tensor differs = top != other;
  const Tensor beyond = differs.logical_and(margin > noise);
  const Tensor log_r = at::log_softmax(r, -1), log_c = at::log_softmax(c, -1);
  const Tensor kl = (log_r.exp() * (log_r - log_c)).sum(-1);
  if (first_ < 0 && differs.any().item<bool>()) {
    first_ = positions_ + differs.nonzero()[0][0].item<int64_t>();
  }
  if (beyond.any().item<bool>() && worst_.is_null()) {
    const int64_t at = beyond.nonzero()[0][0].item<int64_t>();
    worst_ = {{"position", positions_ + at},
              {"reference", top[at].item<int64_t>()},
              {"candidate", other[at].item<int64_t>()},
              {"margin", margin[at].item<double>()},
              {"noise", noise}};
  }
  positions_ += top.numel();
  differ_ += differs.sum().item<int64_t>();
  beyond_ += beyond.sum().item<int64_t>();
  kl_ += kl.sum().item<double>();
  kl_max_ = std::max(kl_max_, kl.max().item<double>());
}

json NextTokens::ToJson() const {
  return {{"positions", positions_},
          {"differ", differ_},
          {"beyond_noise", beyond_},
          {"first_difference", first_ < 0 ? json() : json(first_)},
          {"first_beyond", worst_},
          {"kl_mean", kl_ / std::max<double>(1, static_cast<double>(positions_))},
          {"kl_max", kl_max_}};
}

}  // namespace weighbridge::engine
