#include "formats/pickle/plain_json.h"

#include <cmath>
#include <string>
#include <utility>

namespace weighbridge::pickle {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 16;
constexpr int64_t kMaxNodes = 200'000;

class Converter {
 public:
  std::optional<json> Convert(const Value& value, int depth) {
    // Values may be shared and contain themselves.
    if (depth > kMaxDepth || ++nodes_ > kMaxNodes) return std::nullopt;
    switch (value.kind()) {
      case Kind::kNone:
        return json(nullptr);
      case Kind::kBool:
        return json(value.boolean());
      case Kind::kInt:
        return json(value.integer());
      case Kind::kFloat:
        return std::isfinite(value.real()) ? json(value.real()) : json(nullptr);
      case Kind::kString:
      case Kind::kGlobal:
        return json(std::string(value.text()));
      case Kind::kList:
      case Kind::kTuple:
        return Elements(value, depth);
      case Kind::kDict:
        return Entries(value, depth);
      case Kind::kObject:
        if (value.class_name() == "collections.OrderedDict") return Entries(value, depth);
        if (value.class_name() == "argparse.Namespace") return Entries(value.state(), depth);
        return std::nullopt;
      default:
        return std::nullopt;
    }
  }

 private:
  std::optional<json> Elements(const Value& value, int depth) {
    json list = json::array();
    for (size_t i = 0; i < value.size(); ++i) {
      std::optional<json> element = Convert(value[i], depth + 1);
      if (!element) return std::nullopt;
      list.push_back(std::move(*element));
    }
    return list;
  }

  std::optional<json> Entries(const Value& value, int depth) {
    json table = json::object();
    if (!value.is(Kind::kDict) && !value.is(Kind::kObject)) return table;
    for (size_t i = 0; i < value.size(); ++i) {
      const auto [key, entry] = value.entry(i);
      if (!key.is(Kind::kString)) continue;
      if (std::optional<json> converted = Convert(entry, depth + 1)) {
        table[std::string(key.text())] = std::move(*converted);
      }
      if (nodes_ > kMaxNodes) return std::nullopt;
    }
    return table;
  }

  int64_t nodes_ = 0;
};

}  // namespace

std::optional<json> ToPlainJson(const Value& value) { return Converter().Convert(value, 0); }

}  // namespace weighbridge::pickle
