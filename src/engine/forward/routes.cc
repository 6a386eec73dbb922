#include "engine/forward/routes.h"

#include <algorithm>

namespace weighbridge::engine {

using at::Tensor;

Routes CompareRoutes(std::span<const Tensor> candidate, std::span<const Tensor> reference,
                     std::span<const Tensor> truth) {
  const auto chosen = [](const Tensor& routing) { return routing.flatten(0, 1) != 0; };
  const Tensor right = chosen(truth[0]);
  const Tensor flipped =
      chosen(candidate[0]).ne(right).logical_or(chosen(reference[0]).ne(right)).any(-1);
  const Tensor scores = truth[1].flatten(0, 1);
  const Tensor apart = (reference[1].flatten(0, 1).to(at::kDouble) - scores).abs();
  const double noise = at::nan_to_num(apart, 0.0, 0.0, 0.0).max().item<double>();
  const int64_t k = std::max<int64_t>(1, right.sum(-1).max().item<int64_t>());
  Tensor tied = at::zeros_like(flipped);
  if (k < scores.size(-1)) {
    const Tensor best = std::get<0>(scores.topk(k + 1, -1));
    const Tensor gap = best.select(-1, k - 1) - best.select(-1, k);
    tied =
        gap <= 16 * std::max(noise, 1e-7 * scores.abs().nan_to_num(0, 0, 0).mean().item<double>());
  }
  const Tensor near = flipped.logical_and(tied);
  return {near.logical_not(),
          {{"tokens", flipped.numel()},
           {"flipped", flipped.sum().item<int64_t>()},
           {"near_ties", near.sum().item<int64_t>()}}};
}

}  // namespace weighbridge::engine
