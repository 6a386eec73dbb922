// A library of its own makes NCCL's groups, for it needs libtorch_cuda, which the engine does not.
#pragma once

#include <c10/core/Device.h>
#include <c10/util/intrusive_ptr.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#define WB_NCCL_LIBRARY "libweighbridge_nccl.so"
#define WB_NCCL_ENTRY "weighbridge_make_nccl"

namespace weighbridge::engine {

// What the library's only exported function, an NcclEntry of the name WB_NCCL_ENTRY, gives.
// Both libraries have the C++ runtime and the c10d of one libtorch. Throws c10::Error.
using MakeNcclBackend = c10::intrusive_ptr<c10d::Backend> (*)(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, c10::Device device);
using NcclEntry = MakeNcclBackend (*)();

}  // namespace weighbridge::engine
