#include "engine/nccl/nccl.h"

#include <c10/cuda/CUDAFunctions.h>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace weighbridge::engine {
namespace {

c10::intrusive_ptr<c10d::Backend> MakeNccl(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                           int size, c10::Device device) {
  c10::cuda::set_device(device.index());
  auto options = c10d::ProcessGroupNCCL::Options::create();
  // A follower waits while the leader computes.
  options->timeout = std::chrono::hours(24);
  auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
  backend->setBoundDeviceId(device);
  return backend;
}

}  // namespace
}  // namespace weighbridge::engine

extern "C" [[gnu::visibility("default")]] weighbridge::engine::MakeNcclBackend
weighbridge_make_nccl() {
  return &weighbridge::engine::MakeNccl;
}
