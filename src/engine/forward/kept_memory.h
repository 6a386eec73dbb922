// Memory of tensors on the CPU that is kept for tensors to come.
#pragma once

namespace weighbridge::engine {

// Gives torch's tensors on the CPU, from here on, memory that earlier ones have left: pages from
// the kernel are cleared when they are first touched, which for the outputs of a layer's matrices
// costs a tenth of their computation. What is kept is bounded. Idempotent; thread-safe.
void KeepMemoryOfTensors();

}  // namespace weighbridge::engine
