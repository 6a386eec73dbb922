#include <fmt/format.h>

#include <limits>

#include "formats/pickle/machine.h"

namespace weighbridge::pickle {

Status Machine::PushContainer(Kind kind) {
  Node node{kind};
  node.link = 0;
  return PushNode(node);
}

Result<Index> Machine::AddTuple(std::span<const Index> items) {
  if (items.empty()) return Graph::kEmptyTuple;
  if (items.size() > std::numeric_limits<uint32_t>::max()) return Refused("a tuple is too long");
  Node node{Kind::kTuple};
  node.count = static_cast<uint32_t>(items.size());
  node.begin = graph_.tuple_items.size();
  graph_.tuple_items.insert(graph_.tuple_items.end(), items.begin(), items.end());
  return Add(node);
}

Status Machine::PushTuple(size_t size) {
  if (stack_.size() - floor() < size) {
    return Invalid("an opcode takes a value from an empty stack");
  }
  WB_TRY(const Index tuple, AddTuple(std::span<const Index>(stack_).last(size)));
  stack_.resize(stack_.size() - size);
  return Push(tuple);
}

Status Machine::PushTupleToMark() {
  WB_TRY(const size_t from, PopMark());
  return PushTuple(stack_.size() - from);
}

Status Machine::PushListToMark(Kind kind) {
  WB_TRY(const size_t from, PopMark());
  const std::span<const Index> items = std::span<const Index>(stack_).subspan(from);
  if (kind == Kind::kDict && items.size() % 2 != 0)
    return Invalid("a dict has a key without value");
  Node node{kind};
  node.link = 0;
  if (!items.empty()) {
    node.link = static_cast<Index>(graph_.lists.size());
    graph_.lists.emplace_back(items.begin(), items.end());
  }
  stack_.resize(from);
  return PushNode(node);
}

Result<std::vector<Index>*> Machine::ListToFill(Index target, Kind kind, Filling filling) {
  Node& node = graph_.nodes[target];
  Index* list = nullptr;
  if (node.kind == kind) {
    list = &node.link;
  } else if (node.kind == Kind::kObject) {
    Object& object = graph_.objects[node.link];
    if (object.filling == Filling::kNothing) object.filling = filling;
    if (object.filling == filling) list = &object.list;
  }
  if (list == nullptr) {
    return Invalid(fmt::format("{} are put into {}",
                               filling == Filling::kEntries ? "entries" : "elements",
                               Describe(node.kind)));
  }
  if (*list == 0) {
    *list = static_cast<Index>(graph_.lists.size());
    graph_.lists.emplace_back();
  }
  return &graph_.lists[*list];
}

Status Machine::Append(size_t from) {
  // `from` may have wrapped around on a stack that is too short.
  if (from > stack_.size() || from < floor() + 1) {
    return Invalid("an opcode takes a value from an empty stack");
  }
  if (from == stack_.size()) return {};
  WB_TRY(auto* list, ListToFill(stack_[from - 1], Kind::kList, Filling::kElements));
  list->insert(list->end(), stack_.begin() + static_cast<ptrdiff_t>(from), stack_.end());
  stack_.resize(from);
  return {};
}

Status Machine::SetItems(size_t from) {
  if (from > stack_.size() || from < floor() + 1) {
    return Invalid("an opcode takes a value from an empty stack");
  }
  if ((stack_.size() - from) % 2 != 0) return Invalid("a dict has a key without value");
  if (from == stack_.size()) return {};
  WB_TRY(auto* list, ListToFill(stack_[from - 1], Kind::kDict, Filling::kEntries));
  list->insert(list->end(), stack_.begin() + static_cast<ptrdiff_t>(from), stack_.end());
  stack_.resize(from);
  return {};
}

Status Machine::AddItems() {
  WB_TRY(const size_t from, PopMark());
  if (from < floor() + 1) return Invalid("an opcode takes a value from an empty stack");
  if (from == stack_.size()) return {};
  WB_TRY(auto* list, ListToFill(stack_[from - 1], Kind::kSet, Filling::kElements));
  list->insert(list->end(), stack_.begin() + static_cast<ptrdiff_t>(from), stack_.end());
  stack_.resize(from);
  return {};
}

}  // namespace weighbridge::pickle
