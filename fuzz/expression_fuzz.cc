#include <cstdint>
#include <string_view>

#include "family/expression.h"

// Any text is a value or an error that says what is wrong.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const weighbridge::NameLookup lookup = [](std::string_view name) -> weighbridge::Result<int64_t> {
    if (name.size() > 3)
      return weighbridge::Fail(weighbridge::ErrorKind::kInvalid, "dim", "unknown");
    int64_t value = 0;
    for (char c : name) value = value * 1000003 + c;
    return value * 2048;  // up to 2 * 10^17: products of two overflow
  };
  const auto value = weighbridge::Evaluate(text, lookup);
  if (!value && value.error().what.empty()) __builtin_trap();
  const auto filled = weighbridge::Substitute(text, lookup);
  if (!filled && filled.error().what.empty()) __builtin_trap();
  if (filled && text.find('{') == std::string_view::npos && *filled != text) __builtin_trap();
  return 0;
}
