#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "expand_model.h"
#include "family/library.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto kLibrary = weighbridge::FamilyLibrary::BuiltIn();
  const auto config =
      weighbridge::ParseJson({reinterpret_cast<const char*>(data), size}, "config.json");
  if (!config) return 0;
  const auto spec = kLibrary.ForConfig(*config);
  if (!spec) return 0;
  weighbridge::ExpandOptions options;
  options.tp = static_cast<int>(size % 5) + 1;
  options.without_mtp = size % 2 == 0;
  const auto model = weighbridge::Model::Expand(**spec, *config, options);
  if (!model) return model.error().what.empty() ? (__builtin_trap(), 0) : 0;
  weighbridge::Exercise(*model);
  return 0;
}
