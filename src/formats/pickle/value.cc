#include "formats/pickle/value.h"

#include <span>

#include "formats/pickle/graph.h"

namespace weighbridge::pickle {
namespace {

const Object* AsObject(const Graph& graph, const Node& node) {
  return node.kind == Kind::kObject ? &graph.objects[node.link] : nullptr;
}

// The elements of anything that is indexed one by one.
std::span<const Index> Elements(const Graph& graph, Index index) {
  const Node& node = graph.nodes[index];
  switch (node.kind) {
    case Kind::kTuple:
      return std::span(graph.tuple_items).subspan(node.begin, node.count);
    case Kind::kList:
    case Kind::kSet:
      return graph.lists[node.link];
    case Kind::kPersistent:
      return {&node.link, 1};
    case Kind::kObject: {
      const Object& object = graph.objects[node.link];
      if (object.filling == Filling::kElements) return graph.lists[object.list];
      return {};
    }
    default:
      return {};
  }
}

// Keys and values in turns of anything that is like a dict.
std::span<const Index> Entries(const Graph& graph, Index index) {
  const Node& node = graph.nodes[index];
  if (node.kind == Kind::kDict) return graph.lists[node.link];
  const Object* object = AsObject(graph, node);
  if (object == nullptr || object->filling != Filling::kEntries) return {};
  return graph.lists[object->list];
}

}  // namespace

Graph::Graph() : nodes(kSmallIntegers + 256), lists(1) {
  for (Index i : {kFalse, kTrue}) {
    nodes[i].kind = Kind::kBool;
    nodes[i].integer = i == kTrue;
  }
  nodes[kEmptyTuple].kind = Kind::kTuple;
  nodes[kEmptyTuple].begin = 0;
  for (Index i = 0; i < 256; ++i) {
    nodes[kSmallIntegers + i].kind = Kind::kInt;
    nodes[kSmallIntegers + i].integer = i;
  }
}

Kind Value::kind() const { return graph_->nodes[index_].kind; }

bool Value::boolean() const {
  const Node& node = graph_->nodes[index_];
  return node.kind == Kind::kBool && node.integer != 0;
}

int64_t Value::integer() const {
  const Node& node = graph_->nodes[index_];
  return node.kind == Kind::kInt ? node.integer : 0;
}

double Value::real() const {
  const Node& node = graph_->nodes[index_];
  if (node.kind == Kind::kFloat) return node.real;
  return node.kind == Kind::kInt ? static_cast<double>(node.integer) : 0;
}

std::string_view Value::text() const {
  const Node& node = graph_->nodes[index_];
  const bool has_text =
      node.kind == Kind::kString || node.kind == Kind::kBytes || node.kind == Kind::kGlobal;
  return has_text ? std::string_view(node.text, node.count) : std::string_view();
}

size_t Value::size() const {
  const auto entries = Entries(*graph_, index_);
  return entries.empty() ? Elements(*graph_, index_).size() : entries.size() / 2;
}

Value Value::operator[](size_t i) const {
  const auto elements = Elements(*graph_, index_);
  return {graph_, i < elements.size() ? elements[i] : Graph::kNone};
}

std::pair<Value, Value> Value::entry(size_t i) const {
  const auto entries = Entries(*graph_, index_);
  if (i >= entries.size() / 2) return {{graph_, Graph::kNone}, {graph_, Graph::kNone}};
  return {{graph_, entries[2 * i]}, {graph_, entries[2 * i + 1]}};
}

std::optional<Value> Value::Get(std::string_view key) const {
  const auto entries = Entries(*graph_, index_);
  for (size_t i = entries.size() / 2; i-- > 0;) {
    const Value candidate(graph_, entries[2 * i]);
    if (candidate.is(Kind::kString) && candidate.text() == key) {
      return Value(graph_, entries[2 * i + 1]);
    }
  }
  return std::nullopt;
}

std::string_view Value::class_name() const {
  const Object* object = AsObject(*graph_, graph_->nodes[index_]);
  return object == nullptr ? std::string_view() : Value(graph_, object->callee).text();
}

Value Value::arguments() const {
  const Object* object = AsObject(*graph_, graph_->nodes[index_]);
  return {graph_, object == nullptr ? Graph::kEmptyTuple : object->arguments};
}

Value Value::state() const {
  const Object* object = AsObject(*graph_, graph_->nodes[index_]);
  return {graph_, object == nullptr ? Graph::kNone : object->state};
}

std::optional<Value> Value::Attribute(std::string_view name) const {
  const Value set = state();
  if (!set.is(Kind::kTuple)) return set.Get(name);
  if (set.size() != 2) return std::nullopt;
  const auto slot = set[1].Get(name);
  return slot ? slot : set[0].Get(name);
}

}  // namespace weighbridge::pickle
