// MoEAlltoAllTokenDispatcher of Megatron-Core: tokens go to the ranks that hold the experts they
// chose, are computed there, and come back. Of one rank it only sorts them by expert.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/parallel/place.h"

namespace weighbridge::engine {

class TokenDispatcher {
 public:
  // `routing`: [tokens, experts], the weight of each expert, 0 where it is not chosen. Expert ranks
  // hold equal stretches of the experts. `place` must outlive this.
  TokenDispatcher(const Place& place, const at::Tensor& routing);

  // What an expert makes of rows [rows, hidden] with weights [rows, 1], [rows, hidden]. Of an
  // expert whose matrices several ranks cut each gives its part of the sum.
  using RunExpert =
      std::function<at::Tensor(int64_t expert, const at::Tensor& rows, const at::Tensor& weights)>;
  // Of tokens [tokens, hidden]: the sum of what their experts make of them.
  at::Tensor Run(const at::Tensor& tokens, const RunExpert& run) const;

 private:
  struct Arrived;
  Arrived Dispatch(const at::Tensor& tokens) const;
  at::Tensor Combine(const at::Tensor& tokens, const at::Tensor& made,
                     const Arrived& arrived) const;
  std::vector<int64_t> PerRank(const std::vector<int64_t>& counts) const;

  const Place& place_;
  const at::Tensor routing_;
  int64_t experts_, local_experts_;
  std::vector<at::Tensor> chosen_;  // of each expert: the tokens that chose it
  std::vector<int64_t> counts_;     // how many these are
};

}  // namespace weighbridge::engine
