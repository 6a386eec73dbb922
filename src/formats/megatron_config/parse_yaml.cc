#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <vector>

#include "base/strings.h"
#include "formats/megatron_config/yaml.h"

namespace weighbridge {
namespace {

using nlohmann::json;

template <size_t N>
bool IsOneOf(std::string_view text, const std::array<std::string_view, N>& words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

std::optional<json> Word(std::string_view text) {
  static constexpr std::array<std::string_view, 5> kNull = {"", "~", "null", "Null", "NULL"};
  static constexpr std::array<std::string_view, 9> kTrue = {"true", "True", "TRUE", "yes", "Yes",
                                                            "YES",  "on",   "On",   "ON"};
  static constexpr std::array<std::string_view, 9> kFalse = {"false", "False", "FALSE", "no", "No",
                                                             "NO",    "off",   "Off",   "OFF"};
  static constexpr std::array<std::string_view, 6> kInfinity = {".inf",  ".Inf",  ".INF",
                                                                "+.inf", "+.Inf", "+.INF"};
  static constexpr std::array<std::string_view, 3> kMinusInfinity = {"-.inf", "-.Inf", "-.INF"};
  static constexpr std::array<std::string_view, 3> kNan = {".nan", ".NaN", ".NAN"};
  if (IsOneOf(text, kNull)) return json();
  if (IsOneOf(text, kTrue)) return json(true);
  if (IsOneOf(text, kFalse)) return json(false);
  if (IsOneOf(text, kInfinity)) return json(std::numeric_limits<double>::infinity());
  if (IsOneOf(text, kMinusInfinity)) return json(-std::numeric_limits<double>::infinity());
  if (IsOneOf(text, kNan)) return json(std::numeric_limits<double>::quiet_NaN());
  return std::nullopt;
}

std::optional<json> Number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const bool number_like = !text.empty() &&
                           text.find_first_not_of("0123456789.eE+-") == std::string_view::npos &&
                           text.find_first_of("0123456789") != std::string_view::npos;
  if (!number_like) return std::nullopt;
  const char* const end = text.data() + text.size();
  int64_t integer = 0;
  if (const auto r = std::from_chars(text.data(), end, integer); r.ptr == end) {
    if (r.ec == std::errc()) return json(integer);
  }
  double real = 0;
  const auto r = std::from_chars(text.data(), end, real);
  if (r.ptr != end || r.ec != std::errc()) return std::nullopt;
  return json(real);
}

// Builds the value from the parser's events. After the first error the rest is passed over, since
// the parser cannot be stopped but by an exception; its text is bounded.
class Builder final : public YAML::EventHandler {
 public:
  const std::optional<std::string>& error() const { return error_; }
  int line() const { return line_; }
  json Take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override { Seen(mark); }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Seen(mark);
    key_text_ = "null";
    Put(json(), anchor);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Seen(mark);
    if (error_) return;
    const auto it = anchors_.find(anchor);
    // The parser knows the anchor, so it is one that is not closed yet.
    if (it == anchors_.end()) return Stop("an alias stands inside of what it names");
    const Anchored& target = it->second;
    if (!Count(target.nodes, target.bytes)) return;
    if (static_cast<int>(open_.size()) + target.depth > kMaxYamlDepth) return TooDeep();
    deepest_ = std::max(deepest_, static_cast<int>(open_.size()) + target.depth);
    key_text_ = target.value.dump(-1, ' ', false, json::error_handler_t::replace);
    Place(json(target.value));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Seen(mark);
    if (error_ || !Count(0, value.size())) return;
    std::optional<json> plain;
    if (tag == "?") {  // neither quoted nor tagged
      plain = Word(value);
      if (!plain) plain = Number(value);
    }
    key_text_ = value;
    Put(plain ? std::move(*plain) : json(ToValidUtf8(value)), anchor);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(mark, json::array(), anchor);
  }
  void OnSequenceEnd() override { Close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(mark, json::object(), anchor);
  }
  void OnMapEnd() override { Close(); }

 private:
  // A value under an anchor, and what a copy of it costs.
  struct Anchored {
    json value;
    int64_t nodes = 1;
    uint64_t bytes = 0;
    int depth = 0;
  };
  // A list or table that is not closed yet.
  struct Frame {
    json value;
    std::optional<std::string> key;  // of a table: the value follows
    YAML::anchor_t anchor = 0;
    int64_t nodes_before = 0;
    uint64_t bytes_before = 0;
  };

  void Seen(const YAML::Mark& mark) {
    if (!error_) line_ = mark.line + 1;
  }
  void Stop(std::string what) {
    if (!error_) error_ = std::move(what);
  }
  void TooDeep() { Stop(fmt::format("nesting is deeper than {}", kMaxYamlDepth)); }

  bool Count(int64_t nodes, uint64_t bytes) {
    nodes_ += nodes;
    bytes_ += bytes;
    if (nodes_ <= kMaxYamlNodes && bytes_ <= kMaxYamlTextBytes) return true;
    Stop(fmt::format("it stands for more than {} values, or {} bytes of text", kMaxYamlNodes,
                     kMaxYamlTextBytes));
    return false;
  }

  void Put(json value, YAML::anchor_t anchor) {
    if (error_ || !Count(1, 0)) return;
    if (anchor != 0) anchors_[anchor] = {value, 1, key_text_.size(), 0};
    Place(std::move(value));
  }

  void Open(const YAML::Mark& mark, json empty, YAML::anchor_t anchor) {
    Seen(mark);
    if (error_ || !Count(1, 0)) return;
    if (static_cast<int>(open_.size()) >= kMaxYamlDepth) return TooDeep();
    if (!open_.empty() && open_.back().value.is_object() && !open_.back().key) {
      return Stop("a key is a list or a table");
    }
    anchors_.erase(anchor);
    open_.push_back({std::move(empty), std::nullopt, anchor, nodes_ - 1, bytes_});
    deepest_ = std::max(deepest_, static_cast<int>(open_.size()));
  }

  void Close() {
    if (error_) return;
    Frame frame = std::move(open_.back());
    open_.pop_back();
    if (frame.anchor != 0) {
      // The kept copy counts too, or nested anchors would keep one of each for every level.
      const int64_t nodes = nodes_ - frame.nodes_before;
      const uint64_t bytes = bytes_ - frame.bytes_before;
      if (!Count(nodes, bytes)) return;
      // The depth is bounded by the deepest place so far: exact enough for a limit.
      anchors_[frame.anchor] = {frame.value, nodes, bytes,
                                deepest_ - static_cast<int>(open_.size())};
    }
    Place(std::move(frame.value));
  }

  void Place(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return;
    }
    Frame& frame = open_.back();
    if (frame.value.is_array()) {
      frame.value.push_back(std::move(value));
    } else if (frame.key) {
      frame.value[*frame.key] = std::move(value);
      frame.key.reset();
    } else if (value.is_structured()) {
      Stop("a key is a list or a table");
    } else {
      frame.key = value.is_string() ? value.get<std::string>() : ToValidUtf8(key_text_);
    }
  }

  json root_;
  std::vector<Frame> open_;
  std::map<YAML::anchor_t, Anchored> anchors_;
  std::string key_text_;  // of the last scalar, as it was written
  std::optional<std::string> error_;
  int line_ = 1, deepest_ = 0;
  int64_t nodes_ = 0;
  uint64_t bytes_ = 0;
};

tl::unexpected<Error> BadYaml(std::string what, const std::string& name, int line) {
  return Corrupt("header-corrupt", std::move(what), fmt::format("{}:{}", name, line));
}

}  // namespace

Result<nlohmann::json> ParseYaml(std::string_view text, const std::string& name) {
  if (text.size() > kMaxYamlBytes) {
    return BadYaml(fmt::format("a config of {}; at most {} are read", FormatBytes(text.size()),
                               FormatBytes(kMaxYamlBytes)),
                   name, 1);
  }
  Builder builder;
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
  } catch (const YAML::Exception& e) {
    if (!builder.error()) return BadYaml("no valid YAML: " + e.msg, name, e.mark.line + 1);
  } catch (const std::exception& e) {
    if (!builder.error()) {
      return BadYaml(fmt::format("no valid YAML: {}", e.what()), name, builder.line());
    }
  }
  if (builder.error()) return BadYaml(*builder.error(), name, builder.line());
  return builder.Take();
}

}  // namespace weighbridge
