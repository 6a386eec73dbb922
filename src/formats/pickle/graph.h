// What a Document holds: nodes in one array that name each other by index. 16 bytes a node; strings
// are views into the input. Private to this folder.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "formats/pickle/value.h"

namespace weighbridge::pickle {

using Index = uint32_t;

struct Node {
  Kind kind = Kind::kNone;
  // Bytes of a text, or elements of a tuple.
  uint32_t count = 0;
  union {
    int64_t integer = 0;  // kBool too
    double real;
    const char* text;  // kString, kBytes, kGlobal
    uint64_t begin;    // kTuple: in Graph::tuple_items
    Index link;  // kList, kSet, kDict: in Graph::lists; kObject: in Graph::objects; kPersistent
  };
};

// How an object was filled after its call.
enum class Filling : uint8_t { kNothing, kElements, kEntries };

struct Object {
  Index callee = 0;     // kGlobal
  Index arguments = 0;  // kTuple
  Index state = 0;      // node 0, None, when there is none
  Index list = 0;       // in Graph::lists
  Filling filling = Filling::kNothing;
  bool has_state = false;
};

struct Graph {
  static constexpr Index kNone = 0, kFalse = 1, kTrue = 2, kEmptyTuple = 3;
  static constexpr Index kSmallIntegers = 4;  // 0..255

  Graph();

  std::vector<Node> nodes;
  std::vector<Index> tuple_items;
  // Elements of lists and sets; keys and values of dicts in turns. List 0 stays empty: it is the
  // one of every container that nothing was put into.
  std::vector<std::vector<Index>> lists;
  std::vector<Object> objects;
  std::deque<std::string> owned;  // texts that are not in the input as they are
  Index root = 0;
};

}  // namespace weighbridge::pickle
