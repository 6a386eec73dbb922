// A pickle's value as the JSON that tools/make_pickle_corpus.py describes it with.
#pragma once

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "formats/pickle/read.h"

namespace weighbridge::testing {

inline std::string Hex(std::string_view bytes) {
  std::string hex;
  for (const char c : bytes) {
    for (const int nibble : {static_cast<unsigned char>(c) >> 4, c & 15}) {
      hex.push_back("0123456789abcdef"[nibble]);
    }
  }
  return hex;
}

class PickleJson {
 public:
  static nlohmann::json Of(const pickle::Value& value) { return PickleJson().Describe(value); }

 private:
  using Json = nlohmann::json;
  using Kind = pickle::Kind;

  Json Describe(const pickle::Value& value) {
    switch (value.kind()) {
      case Kind::kNone:
        return nullptr;
      case Kind::kBool:
        return value.boolean();
      case Kind::kInt:
        return value.integer();
      case Kind::kFloat:
        return DescribeFloat(value.real());
      case Kind::kString:
        return value.text();
      case Kind::kBytes:
        return {{"bytes", Hex(value.text())}};
      case Kind::kGlobal:
        return {{"global", value.text()}};
      default:
        return DescribeContainer(value);
    }
  }

  static Json DescribeFloat(double real) {
    uint64_t bits;
    std::memcpy(&bits, &real, sizeof bits);
    std::string bytes;
    for (int shift = 56; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(bits >> shift));
    return {{"float", Hex(bytes)}};
  }

  Json DescribeContainer(const pickle::Value& value) {
    const auto seen = std::find(above_.rbegin(), above_.rend(), value.id());
    if (seen != above_.rend() && !IsEmptyTuple(value)) {
      return {{"above", seen - above_.rbegin() + 1}};
    }
    above_.push_back(value.id());
    Json described;
    switch (value.kind()) {
      case Kind::kList:
        described = {{"list", Elements(value)}};
        break;
      case Kind::kTuple:
        described = {{"tuple", Elements(value)}};
        break;
      case Kind::kSet:
        described = {{"set", Elements(value)}};
        break;
      case Kind::kPersistent:
        described = {{"persistent", Describe(value[0])}};
        break;
      case Kind::kDict:
        described = {{"dict", Entries(value)}};
        break;
      default:
        described = {{"call", value.class_name()},
                     {"arguments", Elements(value.arguments())},
                     {"state", Describe(value.state())},
                     {"items", Elements(value)},
                     {"entries", Entries(value)}};
    }
    above_.pop_back();
    return described;
  }

  // All empty tuples are one.
  static bool IsEmptyTuple(const pickle::Value& value) {
    return value.is(Kind::kTuple) && value.size() == 0;
  }

  Json Elements(const pickle::Value& value) {
    Json elements = Json::array();
    const bool entries = value.is(Kind::kObject) && value.entry(0).second.id() != 0;
    for (size_t i = 0; !entries && i < value.size(); ++i) elements.push_back(Describe(value[i]));
    return elements;
  }

  Json Entries(const pickle::Value& value) {
    Json entries = Json::array();
    const bool any = value.is(Kind::kDict) || value.entry(0).second.id() != 0;
    for (size_t i = 0; any && i < value.size(); ++i) {
      const auto [key, entry] = value.entry(i);
      entries.push_back(Json::array({Describe(key), Describe(entry)}));
    }
    return entries;
  }

  std::vector<uint32_t> above_;
};

}  // namespace weighbridge::testing
