// What a pickle describes, as inert values: nothing is imported, called or constructed. A class or
// function is a name (kGlobal); what a pickle would have made by calling one is a kObject that
// remembers the name, the arguments, the state and the items.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

namespace weighbridge::pickle {

enum class Kind : uint8_t {
  kNone,
  kBool,
  kInt,  // fits 64 bits; a larger one is an error of the reader
  kFloat,
  kString,  // valid UTF-8, without surrogates
  kBytes,   // bytearray too
  kList,
  kTuple,
  kSet,  // frozenset too
  kDict,
  kGlobal,      // text(): "collections.OrderedDict"
  kObject,      // REDUCE, NEWOBJ, OBJ, INST
  kPersistent,  // item 0: the persistent id
};

class Document;
struct Graph;  // graph.h

// A handle; good as long as the Document lives. Graphs may share and contain cycles: a walk over
// them has to bound itself.
class Value {
 public:
  Kind kind() const;
  bool is(Kind k) const { return kind() == k; }

  // Each needs its kind; another gives false, 0 or "".
  bool boolean() const;
  int64_t integer() const;
  double real() const;            // kInt too
  std::string_view text() const;  // kString (UTF-8), kBytes, kGlobal

  // Elements of a list, tuple or set; entries of a dict; what was appended to an object (a list
  // subclass) or set in it (an OrderedDict).
  size_t size() const;
  Value operator[](size_t i) const;               // list, tuple, set, kPersistent, list-like object
  std::pair<Value, Value> entry(size_t i) const;  // dict, dict-like object
  // The entry of a string key: of a dict or dict-like object; the last one set wins. Linear.
  std::optional<Value> Get(std::string_view key) const;

  // kObject: "torch._utils._rebuild_tensor_v2", the tuple of arguments, and what BUILD set. None
  // and an empty tuple where there is none, and for every other kind.
  std::string_view class_name() const;
  Value arguments() const;
  Value state() const;
  // An attribute in the state (a dict, or the second of a (dict, slots) pair's dicts).
  std::optional<Value> Attribute(std::string_view name) const;

  // Identity of the node, for walks that must not visit one twice.
  uint32_t id() const { return index_; }

 private:
  friend class Document;
  Value(const Graph* graph, uint32_t index) : graph_(graph), index_(index) {}
  const Graph* graph_;
  uint32_t index_;
};

}  // namespace weighbridge::pickle
