#include "base/json.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <optional>

#include "base/file.h"

namespace weighbridge {
namespace {

using nlohmann::json;

// Stands for a bare word of Python's json module; U+0001 cannot appear unescaped in valid JSON, and
// the word keeps it from any value that a config could mean.
constexpr std::string_view kMark = "\x01weighbridge-number:";
constexpr std::string_view kEscapedMark = "\\u0001weighbridge-number:";

std::optional<double> NumberOfWord(std::string_view text) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (text == "Infinity") return kInfinity;
  if (text == "-Infinity") return -kInfinity;
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  return std::nullopt;
}

std::optional<double> MarkedNumber(std::string_view text) {
  if (!text.starts_with(kMark)) return std::nullopt;
  return NumberOfWord(text.substr(kMark.size()));
}

// Builds the DOM as nlohmann's own parser does, and stops at a depth that recursion elsewhere
// (dump, copies) can bear.
template <typename Json>
class BoundedDom : public nlohmann::detail::json_sax_dom_parser<Json> {
 public:
  using Base = nlohmann::detail::json_sax_dom_parser<Json>;
  explicit BoundedDom(Json& target) : Base(target, /*allow_exceptions_=*/false) {}

  bool start_object(std::size_t size) { return Enter() && Base::start_object(size); }
  bool start_array(std::size_t size) { return Enter() && Base::start_array(size); }
  bool end_object() { return --depth_, Base::end_object(); }
  bool end_array() { return --depth_, Base::end_array(); }
  bool string(json::string_t& value) {
    const auto number = MarkedNumber(value);
    return number ? Base::number_float(*number, "") : Base::string(value);
  }
  // A bare word is a value, never a key.
  bool key(json::string_t& value) {
    if (!MarkedNumber(value)) return Base::key(value);
    problem = "a number cannot be a key";
    return false;
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception& e) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..."
    const std::string_view text = e.what();
    const auto start = text.find("] ");
    problem = start == text.npos ? text : text.substr(start + 2);
    offset = position == 0 ? 0 : position - 1;
    return false;
  }

  std::string problem;
  std::size_t offset = 0;

 private:
  bool Enter() {
    if (++depth_ <= kMaxJsonDepth) return true;
    problem = fmt::format("nested deeper than {} levels", kMaxJsonDepth);
    return false;
  }
  int depth_ = 0;
};

// Turns bare NaN, Infinity and -Infinity outside of strings into marked strings; nullopt when there
// are none.
std::optional<std::string> MarkBareNumbers(std::string_view text) {
  std::string out;
  bool in_string = false, found = false;
  for (size_t i = 0; i < text.size();) {
    if (!in_string) {
      size_t length = 0;
      for (std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
        if (text.substr(i, word.size()) == word) length = word.size();
      }
      if (length > 0) {
        out.append("\"").append(kEscapedMark).append(text.substr(i, length)).append("\"");
        i += length;
        found = true;
        continue;
      }
    }
    if (in_string && text[i] == '\\' && i + 1 < text.size())
      out.push_back(text[i++]);
    else if (text[i] == '"')
      in_string = !in_string;
    out.push_back(text[i++]);
  }
  return found ? std::optional(out) : std::nullopt;
}

template <typename Json>
Result<Json> ParseStrict(std::string_view text, const std::string& name) {
  Json root;
  BoundedDom<Json> dom(root);
  if (Json::sax_parse(text.begin(), text.end(), &dom)) return root;
  return Corrupt("header-corrupt", "not valid JSON: " + dom.problem,
                 fmt::format("{}:{}", name, dom.offset));
}

template <typename Json>
Result<Json> Parse(std::string_view text, const std::string& name) {
  auto parsed = ParseStrict<Json>(text, name);
  if (parsed) return parsed;
  if (const auto marked = MarkBareNumbers(text)) {
    if (auto again = ParseStrict<Json>(*marked, name)) return again;
  }
  return parsed;
}

// {"__float__": "Infinity"} becomes the number, as PreTrainedConfig._decode_special_floats has it.
void DecodeTaggedNumbers(json& value) {
  if (!value.is_structured()) return;
  if (value.is_object() && value.size() == 1 && value.begin().key() == "__float__" &&
      value.begin()->is_string()) {
    if (const auto number = NumberOfWord(value.begin()->get_ref<const std::string&>())) {
      value = *number;
    }
    return;
  }
  for (json& inner : value) DecodeTaggedNumbers(inner);
}

// Numbers that JSON has no spelling for become marked strings, the reverse of MarkBareNumbers.
void MarkNumbers(nlohmann::ordered_json& value) {
  if (value.is_structured()) {
    for (auto& inner : value) MarkNumbers(inner);
  } else if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    const double number = value.get<double>();
    const char* word = std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";
    value = std::string(kMark) + word;
  }
}

}  // namespace

Result<json> ParseJson(std::string_view text, const std::string& name) {
  auto parsed = Parse<json>(text, name);
  if (parsed) DecodeTaggedNumbers(*parsed);
  return parsed;
}

Result<nlohmann::ordered_json> ParseOrderedJson(std::string_view text, const std::string& name) {
  return Parse<nlohmann::ordered_json>(text, name);
}

std::string DumpConfig(const nlohmann::ordered_json& config) {
  nlohmann::ordered_json marked = config;
  MarkNumbers(marked);
  std::string text =
      marked.dump(2, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace) + "\n";
  const std::string open = "\"" + std::string(kEscapedMark);
  for (size_t at = 0; (at = text.find(open, at)) != std::string::npos;) {
    text.erase(text.find('"', at + 1), 1);
    text.erase(at, open.size());
  }
  return text;
}

Result<json> ReadJsonFile(const std::filesystem::path& path) {
  WB_TRY(const std::string text, ReadTextFile(path, kMaxJsonFileBytes));
  return ParseJson(text, path.string());
}

tl::unexpected<Error> WrongKind(const std::string& key, const json& value,
                                std::string_view expected) {
  constexpr size_t kShown = 40;
  const std::string kind = value.is_null()      ? "null"
                           : value.is_array()   ? "a list"
                           : value.is_object()  ? "a table"
                           : value.is_boolean() ? "a truth value"
                                                : "a " + std::string(value.type_name());
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  return Fail(ErrorKind::kInvalid, "config-kind",
              fmt::format("'{}' is {} ({}), {} is expected", key, kind, text, expected),
              "config.json: " + key);
}

}  // namespace weighbridge
