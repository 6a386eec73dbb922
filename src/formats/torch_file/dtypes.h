// Which dtype a torch storage class or torch.dtype is.
#pragma once

#include <optional>
#include <string_view>

#include "tensor/dtype.h"

namespace weighbridge {

// "torch.BFloat16Storage", "torch.cuda.FloatStorage"; nullopt for those that are no dtype of ours
// (quantized, complex of doubles) and for UntypedStorage.
std::optional<DType> DTypeOfTorchStorage(std::string_view global);

// "torch.storage.UntypedStorage", and "torch.UntypedStorage" in its variants: bytes.
bool IsUntypedTorchStorage(std::string_view global);

// "torch.bfloat16"; nullopt for those that are no dtype of ours (torch.complex128, torch.qint8, and
// torch.float4_e2m1fn_x2, whose elements are pairs).
std::optional<DType> DTypeOfTorchDType(std::string_view global);

}  // namespace weighbridge
