#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "checks/bridge_dump.h"
#include "checks/bridge_lint.h"
#include "checks/inventory_lint.h"
#include "family/library.h"

namespace {

// As `families lint --bridge` does, with the family of the config where there is one.
void Lint(const weighbridge::BridgeDump& dump) {
  static const auto kLibrary = weighbridge::FamilyLibrary::BuiltIn();
  if (const auto spec = kLibrary.ForConfig(dump.config)) {
    if (const auto model = weighbridge::Model::Expand(**spec, dump.config, {})) {
      weighbridge::LintBridge(*model, dump, {});
    }
  }
  if (!weighbridge::LintInventories(dump) && dump.hf && dump.megatron) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto document =
      weighbridge::ParseJson({reinterpret_cast<const char*>(data), size}, "bridge.json");
  if (!document) return 0;
  if (const auto dump = weighbridge::ParseBridgeDump(*document)) Lint(*dump);
  return 0;
}
