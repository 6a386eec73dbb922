#include <cstdint>
#include <string_view>

#include "formats/megatron_config/yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto yaml = weighbridge::ParseYaml(text, "fuzz");
  if (!yaml) return 0;
  // What was accepted can be written, and is read again; only NaN differs from itself.
  const std::string written = weighbridge::DumpYaml(*yaml);
  const auto again = weighbridge::ParseYaml(written, "fuzz");
  if (!again && written.size() < weighbridge::kMaxYamlBytes) __builtin_trap();
  if (again && weighbridge::DumpYaml(*again) != written) __builtin_trap();
  return 0;
}
