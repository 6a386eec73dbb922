#include "cli/size_option.h"

#include <fmt/format.h>

#include <charconv>

namespace weighbridge::cli {

Result<int64_t> ParseSize(const std::string& text, const std::string& option) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  int shift = 0;
  if (!unit.empty()) {
    const size_t at = std::string_view("KMGT").find(static_cast<char>(unit[0] & ~0x20));
    shift = at == std::string_view::npos ? -1 : 10 * static_cast<int>(at + 1);
    unit.remove_prefix(1);
  }
  const bool ending = unit.empty() || unit == "B" || unit == "iB";
  if (error != std::errc() || shift < 0 || !ending || value <= 0 || value > (INT64_MAX >> shift)) {
    return Fail(ErrorKind::kUsage, "usage", fmt::format("{}: '{}' is not a size", option, text), "",
                "write bytes, or a number with K, M or G: 64M");
  }
  return value << shift;
}

}  // namespace weighbridge::cli
