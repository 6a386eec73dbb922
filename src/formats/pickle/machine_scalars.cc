#include <fmt/format.h>
#include <simdjson.h>

#include <bit>
#include <charconv>
#include <limits>
#include <optional>

#include "formats/pickle/machine.h"

namespace weighbridge::pickle {
namespace {

bool IsUtf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

std::optional<uint32_t> ParseDigits(std::string_view digits, int base) {
  uint32_t value = 0;
  const char* last = digits.data() + digits.size();
  const auto [stop, code] = std::from_chars(digits.data(), last, value, base);
  if (digits.empty() || code != std::errc() || stop != last) return std::nullopt;
  return value;
}

// False for what is no code point: a surrogate, or beyond U+10FFFF.
bool AppendUtf8(uint32_t point, std::string& to) {
  const auto continuation = [&](int shift) {
    to.push_back(static_cast<char>(0x80 | (point >> shift & 0x3f)));
  };
  if (point < 0x80) {
    to.push_back(static_cast<char>(point));
  } else if (point < 0x800) {
    to.push_back(static_cast<char>(0xc0 | point >> 6));
    continuation(0);
  } else if (point < 0x10000) {
    if (point >= 0xd800 && point < 0xe000) return false;
    to.push_back(static_cast<char>(0xe0 | point >> 12));
    continuation(6);
    continuation(0);
  } else {
    if (point > 0x10ffff) return false;
    to.push_back(static_cast<char>(0xf0 | point >> 18));
    continuation(12);
    continuation(6);
    continuation(0);
  }
  return true;
}

// Python's raw-unicode-escape: \uXXXX and \UXXXXXXXX, each other byte is a code point.
std::optional<std::string> DecodeRawUnicode(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i++]);
    uint32_t point = byte;
    if (byte == '\\' && i < text.size()) {
      const char kind = text[i++];
      if (kind != 'u' && kind != 'U') {
        decoded.push_back('\\');
        point = static_cast<unsigned char>(kind);
      } else {
        const size_t digits = kind == 'u' ? 4 : 8;
        if (text.size() - i < digits) return std::nullopt;
        const auto parsed = ParseDigits(text.substr(i, digits), 16);
        if (!parsed) return std::nullopt;
        point = *parsed;
        i += digits;
      }
    }
    if (!AppendUtf8(point, decoded)) return std::nullopt;
  }
  return decoded;
}

constexpr std::string_view kEscapes = "\\\\\'\'\"\"b\bf\ft\tn\nr\rv\va\a";

// The escapes of a Python 2 string literal.
std::optional<std::string> DecodeEscapes(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size();) {
    if (text[i] != '\\') {
      decoded.push_back(text[i++]);
      continue;
    }
    if (++i == text.size()) return std::nullopt;
    size_t digits = 0;
    if (text[i] == 'x') {
      const auto parsed = ParseDigits(text.substr(i + 1, 2), 16);
      if (!parsed || text.size() - i < 3) return std::nullopt;
      decoded.push_back(static_cast<char>(*parsed));
      i += 3;
      continue;
    }
    while (digits < 3 && i + digits < text.size() && text[i + digits] >= '0' &&
           text[i + digits] < '8') {
      ++digits;
    }
    if (digits > 0) {
      decoded.push_back(static_cast<char>(*ParseDigits(text.substr(i, digits), 8)));
      i += digits;
      continue;
    }
    size_t known = 0;
    while (known < kEscapes.size() && kEscapes[known] != text[i]) known += 2;
    if (known < kEscapes.size()) {
      decoded.push_back(kEscapes[known + 1]);
    } else {
      decoded.push_back('\\');
      decoded.push_back(text[i]);
    }
    ++i;
  }
  return decoded;
}

}  // namespace

Status Machine::PushInteger(int64_t value) {
  if (value >= 0 && value < 256) return Push(Graph::kSmallIntegers + static_cast<Index>(value));
  Node node{Kind::kInt};
  node.integer = value;
  return PushNode(node);
}

Status Machine::PushTextInteger() {
  const auto rest = input_.substr(position_);
  if (rest.starts_with("00\n") || rest.starts_with("01\n")) {
    position_ += 3;
    return Push(rest[1] == '1' ? Graph::kTrue : Graph::kFalse);
  }
  WB_TRY(const int64_t value, TakeDecimal(""));
  return PushInteger(value);
}

Status Machine::PushLong(int length_bytes) {
  WB_TRY(const auto digits, TakeCounted(length_bytes));
  if (digits.size() > 8) {
    return Refused(fmt::format("an integer of {} bytes, more than 64 bits", digits.size()));
  }
  if (digits.empty()) return PushInteger(0);
  // Two's complement, extended by its sign.
  uint64_t value = static_cast<signed char>(digits.back()) < 0 ? ~uint64_t{0} : 0;
  for (size_t i = digits.size(); i-- > 0;) {
    value = value << 8 | static_cast<unsigned char>(digits[i]);
  }
  return PushInteger(static_cast<int64_t>(value));
}

Status Machine::PushBinaryFloat() {
  WB_TRY(const auto bytes, Take(8));
  uint64_t bits = 0;
  for (const char byte : bytes) bits = bits << 8 | static_cast<unsigned char>(byte);
  Node node{Kind::kFloat};
  node.real = std::bit_cast<double>(bits);
  return PushNode(node);
}

Status Machine::PushTextFloat() {
  WB_TRY(const auto line, TakeLine());
  Node node{Kind::kFloat};
  const char* last = line.data() + line.size();
  const auto [stop, code] = std::from_chars(line.data(), last, node.real);
  if (code != std::errc() || stop != last) return Invalid("a line is no float");
  return PushNode(node);
}

Status Machine::PushText(Kind kind, std::string_view text) {
  if (text.size() > std::numeric_limits<uint32_t>::max()) {
    return Refused(fmt::format("a text of {} bytes", text.size()));
  }
  Node node{kind};
  node.count = static_cast<uint32_t>(text.size());
  node.text = text.data();
  return PushNode(node);
}

Status Machine::PushUtf8(int length_bytes) {
  WB_TRY(const auto text, TakeCounted(length_bytes));
  if (!IsUtf8(text)) return Invalid("a string is not valid UTF-8");
  return PushText(Kind::kString, text);
}

Status Machine::PushOldString(std::string_view text) {
  return PushText(IsUtf8(text) ? Kind::kString : Kind::kBytes, text);
}

Status Machine::PushQuotedString() {
  WB_TRY(const std::string_view line, TakeLine());
  const bool quoted = line.size() >= 2 && line.front() == line.back() &&
                      (line.front() == '\'' || line.front() == '"');
  if (!quoted) return Invalid("a string without quotes");
  auto text = DecodeEscapes(line.substr(1, line.size() - 2));
  if (!text) return Invalid("a string ends in the middle of an escape");
  return PushOldString(graph_.owned.emplace_back(std::move(*text)));
}

Status Machine::PushRawUnicode() {
  WB_TRY(const auto line, TakeLine());
  auto text = DecodeRawUnicode(line);
  if (!text) return Invalid("a string has an escape that is no character");
  return PushText(Kind::kString, graph_.owned.emplace_back(std::move(*text)));
}

}  // namespace weighbridge::pickle
