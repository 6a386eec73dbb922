#include <charconv>

#include "formats/pickle/machine.h"

namespace weighbridge::pickle {

Result<std::string_view> Machine::Take(uint64_t size) {
  if (size > input_.size() - position_) return Truncated();
  const auto taken = input_.substr(position_, size);
  position_ += size;
  return taken;
}

Result<uint64_t> Machine::TakeUnsigned(int bytes) {
  WB_TRY(const auto taken, Take(static_cast<uint64_t>(bytes)));
  uint64_t value = 0;
  for (size_t i = taken.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(taken[i]);
  return value;
}

Result<std::string_view> Machine::TakeCounted(int bytes) {
  WB_TRY(const uint64_t size, TakeUnsigned(bytes));
  return Take(size);
}

Result<std::string_view> Machine::TakeLine() {
  const size_t end = input_.find('\n', position_);
  if (end == input_.npos) return Truncated();
  const auto line = input_.substr(position_, end - position_);
  position_ = end + 1;
  return line;
}

Result<int64_t> Machine::TakeDecimal(std::string_view end) {
  WB_TRY(std::string_view line, TakeLine());
  if (!end.empty() && line.ends_with(end)) line.remove_suffix(end.size());
  int64_t value = 0;
  const char* last = line.data() + line.size();
  const auto [stop, code] = std::from_chars(line.data(), last, value);
  if (code == std::errc::result_out_of_range && stop == last) {
    return Refused("an integer of more than 64 bits");
  }
  if (code != std::errc() || stop != last) return Invalid("a line is no decimal number");
  return value;
}

}  // namespace weighbridge::pickle
