#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <string_view>

#include "base/strings.h"
#include "formats/megatron_config/yaml.h"

namespace weighbridge {
namespace {

using nlohmann::json;

// A word that no reader takes for a truth value, a number or null.
bool IsPlain(std::string_view text) {
  static constexpr std::array<std::string_view, 10> kTaken = {"true", "false", "yes", "no", "on",
                                                              "off",  "null",  "y",   "n",  "nan"};
  static constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
  if (text.empty() || kLetters.find(text[0]) == std::string_view::npos) return false;
  const auto allowed = [&](char c) {
    return kLetters.find(c) != std::string_view::npos || (c >= '0' && c <= '9') || c == '.';
  };
  if (!std::all_of(text.begin(), text.end(), allowed)) return false;
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return std::find(kTaken.begin(), kTaken.end(), lower) == kTaken.end();
}

// The code point at the start of valid UTF-8, and its bytes.
std::pair<uint32_t, size_t> FirstCodePoint(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return {byte(0), 1};
  const size_t size = byte(0) < 0xe0 ? 2 : byte(0) < 0xf0 ? 3 : 4;
  uint32_t code = byte(0) & (0x7fU >> size);
  for (size_t i = 1; i < size; ++i) code = code << 6 | (byte(i) & 0x3fU);
  return {code, size};
}

// YAML does not join escaped surrogates as JSON does, so all that is printable stands as it is.
bool NeedsEscape(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code <= 0xa0) || code == 0x2028 || code == 0x2029 ||
         code == 0xfeff || code == 0xfffe || code == 0xffff;
}

std::string Quoted(std::string_view raw) {
  const std::string valid = ToValidUtf8(raw);
  std::string out = "\"";
  for (std::string_view text = valid; !text.empty();) {
    const auto [code, size] = FirstCodePoint(text);
    if (NeedsEscape(code)) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", code);
    } else {
      if (code == '"' || code == '\\') out += '\\';
      out += text.substr(0, size);
    }
    text.remove_prefix(size);
  }
  return out + '"';
}

// PyYAML takes a number without a point for text: 1.0e-05, not 1e-05.
std::string RealText(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  std::string text = json(value).dump();
  const size_t exponent = std::min(text.find('e'), text.size());
  if (text.find('.') >= exponent) text.insert(exponent, ".0");
  return text;
}

std::string ScalarText(const json& value) {
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    return IsPlain(text) ? text : Quoted(text);
  }
  return value.is_number_float() ? RealText(value.get<double>()) : value.dump();
}

std::string FlowList(const json& list) {
  std::string out = "[";
  for (const json& entry : list) {
    if (out.size() > 1) out += ", ";
    out += entry.is_array() ? FlowList(entry) : ScalarText(entry);
  }
  return out + "]";
}

// Lists of lists and scalars are written in one line; those with tables in them below their key.
bool HasTable(const json& value) {
  return value.is_object() ||
         (value.is_array() && std::any_of(value.begin(), value.end(), HasTable));
}

void Block(const json& value, size_t indent, std::string& out);

// What follows "key:" or "-", line feed included.
void Value(const json& value, size_t indent, std::string& out) {
  if (value.is_object() && value.empty()) {
    out += " {}\n";
  } else if (HasTable(value)) {
    out += '\n';
    Block(value, indent + 2, out);
  } else {
    out += ' ';
    out += value.is_array() ? FlowList(value) : ScalarText(value);
    out += '\n';
  }
}

void Block(const json& value, size_t indent, std::string& out) {
  if (value.is_object()) {
    for (const auto& [key, entry] : value.items()) {
      out += std::string(indent, ' ') + ScalarText(key) + ":";
      Value(entry, indent, out);
    }
    return;
  }
  for (const json& entry : value) {
    out += std::string(indent, ' ') + "-";
    Value(entry, indent, out);
  }
}

}  // namespace

std::string DumpYaml(const nlohmann::json& value) {
  std::string out;
  if (value.is_structured() && !value.empty() && HasTable(value)) {
    Block(value, 0, out);
  } else {
    out = (value.is_object()  ? "{}"
           : value.is_array() ? FlowList(value)
                              : ScalarText(value)) +
          "\n";
  }
  return out;
}

}  // namespace weighbridge
