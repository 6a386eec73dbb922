#include "formats/checkpoint.h"

#include <algorithm>

namespace weighbridge {

const TensorInfo* Checkpoint::Find(std::string_view name) const {
  const auto& all = tensors();
  const auto it =
      std::lower_bound(all.begin(), all.end(), name,
                       [](const TensorInfo& t, std::string_view n) { return t.name < n; });
  return it != all.end() && it->name == name ? &*it : nullptr;
}

}  // namespace weighbridge
