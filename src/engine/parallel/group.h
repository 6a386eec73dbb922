// Ranks that compute something together, and the collectives of torch's c10d among them: Gloo
// through the memory of the CPU, NCCL between GPUs.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace c10d {
class Backend;
}

namespace weighbridge::engine {

struct Range {
  int64_t begin = 0, count = 0;
};

// The `part`-th of `parts` stretches of `extent`; the first ones are longer by one where it does
// not divide.
Range PartOf(int64_t extent, int64_t part, int64_t parts);

// All ranks of a group call the same operations in the same order with tensors of one dtype.
// Throws c10::Error when a rank is lost. A group of one changes nothing.
class Group {
 public:
  Group() = default;
  // `through_cpu`: the backend moves memory of the CPU alone.
  Group(const c10::intrusive_ptr<c10d::Backend>& backend, bool through_cpu);

  // Ends what the backend does in the background; the group is not used again.
  void Shutdown();

  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }

  // The sum over the ranks.
  at::Tensor AllReduce(const at::Tensor& x) const;
  // The ranks' tensors one behind the other along `axis`, where their extents are those of PartOf
  // of `whole`.
  at::Tensor AllGather(const at::Tensor& x, int64_t axis, int64_t whole) const;
  // Of the sum over the ranks this rank's part (PartOf) along `axis`.
  at::Tensor ReduceScatter(const at::Tensor& x, int64_t axis) const;

  // Rows [send[0] for rank 0, send[1] for rank 1, ...] go out; what comes back is the rows from
  // each rank in their order, and how many of each.
  struct Rows {
    at::Tensor rows;
    std::vector<int64_t> counts;
  };
  Rows AllToAll(const at::Tensor& rows, std::span<const int64_t> send) const;
  // The same when it is known how many come.
  at::Tensor AllToAll(const at::Tensor& rows, std::span<const int64_t> send,
                      std::span<const int64_t> receive) const;

 private:
  struct Link;
  at::Tensor Ours(const at::Tensor& x) const;  // where the backend takes it

  std::shared_ptr<const Link> link_;  // nullptr: of one
  bool through_cpu_ = true;
  int64_t rank_ = 0, size_ = 1;
};

}  // namespace weighbridge::engine
