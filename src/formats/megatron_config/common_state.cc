#include "formats/megatron_config/common_state.h"

#include <utility>

#include "formats/pickle/plain_json.h"

namespace weighbridge {

nlohmann::json CommonStateOf(const pickle::Value& root) {
  nlohmann::json state = nlohmann::json::object();
  const bool listed = root.is(pickle::Kind::kList) && root.size() == 1;
  const pickle::Value table = listed ? root[0] : root;
  for (const char* key : {"args", "iteration", "checkpoint_version"}) {
    const auto value = table.Get(key);
    if (!value) continue;
    if (auto plain = pickle::ToPlainJson(*value)) state[key] = std::move(*plain);
  }
  return state;
}

}  // namespace weighbridge
