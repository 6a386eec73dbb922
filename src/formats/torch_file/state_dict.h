// The tensors of a torch file by name.
#pragma once

#include <string>
#include <vector>

#include "formats/torch_file/torch_file.h"

namespace weighbridge {

struct NamedTorchTensor {
  std::string name;
  TorchTensor tensor;
};

struct StateDict {
  std::vector<NamedTorchTensor> tensors;  // in the order of the file
  std::string key;  // where in the root they are: "state_dict", "model"; "" for the root itself
};

// `where` is the file's place for errors. Errors: those of TorchFile::Tensor, with the tensor's
// name; kUnsupported "unsupported-format" when there is no flat dict of tensors. An entry
// `..._extra_state` that is no tensor is left out.
Result<StateDict> ReadStateDict(const TorchFile& file, const std::string& where);

}  // namespace weighbridge
