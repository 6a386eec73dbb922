#include "engine/parallel/group.h"

#include <algorithm>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <utility>

namespace weighbridge::engine {
namespace {

using at::Tensor;

// `x` with its extent along `axis` grown to `extent`; what is added is never read.
Tensor Grown(const Tensor& x, int64_t axis, int64_t extent) {
  const int64_t missing = extent - x.size(axis);
  if (missing == 0) return x;
  std::vector<int64_t> shape = x.sizes().vec();
  shape[static_cast<size_t>(axis)] = missing;
  return at::cat({x, at::zeros(shape, x.options())}, axis);
}

}  // namespace

Range PartOf(int64_t extent, int64_t part, int64_t parts) {
  const int64_t each = extent / parts, longer = extent % parts;
  return {part * each + std::min(part, longer), each + (part < longer ? 1 : 0)};
}

struct Group::Link {
  c10::intrusive_ptr<c10d::Backend> backend;
};

Group::Group(const c10::intrusive_ptr<c10d::Backend>& backend, bool through_cpu)
    : link_(std::make_shared<Link>(Link{backend})),
      through_cpu_(through_cpu),
      rank_(backend->getRank()),
      size_(backend->getSize()) {}

void Group::Shutdown() {
  if (link_ != nullptr) link_->backend->shutdown();
  link_.reset();
  size_ = 1;
}

Tensor Group::Ours(const Tensor& x) const {
  return (through_cpu_ ? x.to(at::kCPU) : x).contiguous();
}

Tensor Group::AllReduce(const Tensor& x) const {
  if (size_ == 1) return x;
  // A copy: the backend writes in place.
  std::vector<Tensor> sum = {Ours(x).clone()};
  link_->backend->allreduce(sum)->wait();
  return sum[0].to(x.device());
}

Tensor Group::AllGather(const Tensor& x, int64_t axis, int64_t whole) const {
  if (size_ == 1) return x;
  const int64_t longest = PartOf(whole, 0, size_).count;
  std::vector<Tensor> own = {Ours(Grown(x, axis, longest))};
  std::vector<std::vector<Tensor>> all(1);
  for (int64_t r = 0; r < size_; ++r) all[0].push_back(at::empty_like(own[0]));
  link_->backend->allgather(all, own)->wait();
  for (int64_t r = 0; r < size_; ++r) {
    Tensor& part = all[0][static_cast<size_t>(r)];
    part = part.narrow(axis, 0, PartOf(whole, r, size_).count);
  }
  return at::cat(all[0], axis).to(x.device());
}

Tensor Group::ReduceScatter(const Tensor& x, int64_t axis) const {
  if (size_ == 1) return x;
  const int64_t whole = x.size(axis), longest = PartOf(whole, 0, size_).count;
  std::vector<std::vector<Tensor>> parts(1);
  for (int64_t r = 0; r < size_; ++r) {
    const Range part = PartOf(whole, r, size_);
    parts[0].push_back(Ours(Grown(x.narrow(axis, part.begin, part.count), axis, longest)));
  }
  std::vector<Tensor> own = {at::empty_like(parts[0][0])};
  link_->backend->reduce_scatter(own, parts)->wait();
  return own[0].narrow(axis, 0, PartOf(whole, rank_, size_).count).to(x.device());
}

Group::Rows Group::AllToAll(const Tensor& rows, std::span<const int64_t> send) const {
  std::vector<int64_t> counts(send.begin(), send.end());
  if (size_ == 1) return {rows, std::move(counts)};
  Tensor out = at::empty({size_}, at::TensorOptions().dtype(at::kLong));
  Tensor in = at::tensor(counts, at::TensorOptions().dtype(at::kLong));
  if (!through_cpu_) {
    out = out.to(rows.device());
    in = in.to(rows.device());
  }
  std::vector<int64_t> even;
  link_->backend->alltoall_base(out, in, even, even)->wait();
  out = out.to(at::kCPU);
  counts.assign(out.const_data_ptr<int64_t>(), out.const_data_ptr<int64_t>() + size_);
  return {AllToAll(rows, send, counts), counts};
}

Tensor Group::AllToAll(const Tensor& rows, std::span<const int64_t> send,
                       std::span<const int64_t> receive) const {
  if (size_ == 1) return rows;
  std::vector<int64_t> sent(send.begin(), send.end()), received(receive.begin(), receive.end());
  int64_t total = 0;
  for (const int64_t count : received) total += count;
  std::vector<int64_t> shape = rows.sizes().vec();
  shape[0] = total;
  Tensor in = Ours(rows);
  Tensor out = at::empty(shape, in.options());
  link_->backend->alltoall_base(out, in, received, sent)->wait();
  return out.to(rows.device());
}

}  // namespace weighbridge::engine
