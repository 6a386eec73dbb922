#include <fmt/format.h>

#include "base/strings.h"
#include "formats/pickle/machine.h"

namespace weighbridge::pickle {
namespace {

// How Python 2 called the modules that protocols 0 to 2 still name.
std::string_view ModuleOfToday(std::string_view module) {
  if (module == "__builtin__") return "builtins";
  if (module == "copy_reg") return "copyreg";
  return module;
}

// Names of files may be of any length and hold terminal escapes.
std::string ForMessage(std::string_view name) {
  constexpr size_t kShown = 120;
  if (name.size() <= 2 * kShown) return CutMiddle(ToPrintable(name), kShown);
  return ToPrintable(name.substr(0, kShown / 2)) + "..." +
         ToPrintable(name.substr(name.size() - kShown / 2));
}

constexpr char kRefusedHint[] =
    "nothing was executed; if the writer is trusted, save the weights as safetensors there";

}  // namespace

Status Machine::PushGlobal(std::string_view module, std::string_view name) {
  const std::string global = fmt::format("{}.{}", ModuleOfToday(module), name);
  // A dot within the name would let Python walk from an allowed object to any other.
  const bool plain = name.find('.') == name.npos;
  const auto known = globals_.find(global);
  if (plain && known != globals_.end()) return Push(known->second);
  if (!plain || options_.allowed == nullptr || !options_.allowed(global)) {
    return Refused(fmt::format("it names '{}', which no checkpoint needs", ForMessage(global)),
                   kRefusedHint);
  }
  WB_RETURN_IF_ERROR(PushText(Kind::kGlobal, graph_.owned.emplace_back(global)));
  globals_.emplace(global, stack_.back());
  return {};
}

Status Machine::PushTextGlobal() {
  WB_TRY(const auto module, TakeLine());
  WB_TRY(const auto name, TakeLine());
  return PushGlobal(module, name);
}

Status Machine::PushStackGlobal() {
  WB_TRY(const Index name, Pop());
  WB_TRY(const Index module, Pop());
  const Node& n = graph_.nodes[name];
  const Node& m = graph_.nodes[module];
  if (n.kind != Kind::kString || m.kind != Kind::kString) {
    return Invalid("STACK_GLOBAL needs two strings");
  }
  return PushGlobal({m.text, m.count}, {n.text, n.count});
}

Status Machine::PushPersistent(Index id) {
  Node node{Kind::kPersistent};
  node.link = id;
  return PushNode(node);
}

Status Machine::PushObject(Index callee, Index arguments) {
  if (graph_.nodes[callee].kind != Kind::kGlobal) {
    return Refused(fmt::format("it calls {}", Describe(graph_.nodes[callee].kind)), kRefusedHint);
  }
  if (graph_.nodes[arguments].kind != Kind::kTuple) {
    return Invalid(
        fmt::format("the arguments of a call are {}", Describe(graph_.nodes[arguments].kind)));
  }
  Node node{Kind::kObject};
  node.link = static_cast<Index>(graph_.objects.size());
  WB_RETURN_IF_ERROR(PushNode(node));
  graph_.objects.push_back({callee, arguments});
  return {};
}

// Protocols 0 and 1 make a plain object by copyreg._reconstructor(class, object, None): the same as
// NEWOBJ with the class and no arguments.
Index Machine::ReconstructedClass(Index callee, Index arguments) const {
  const Node& node = graph_.nodes[arguments];
  if (node.kind != Kind::kTuple || node.count != 3) return Graph::kNone;
  const Index* items = graph_.tuple_items.data() + node.begin;
  const auto is_global = [&](Index index, std::string_view name) {
    const Node& global = graph_.nodes[index];
    return global.kind == Kind::kGlobal && std::string_view(global.text, global.count) == name;
  };
  const bool reconstructed = is_global(callee, "copyreg._reconstructor") &&
                             is_global(items[1], "builtins.object") && items[2] == Graph::kNone;
  return reconstructed ? items[0] : Graph::kNone;
}

Status Machine::Reduce() {
  WB_TRY(const Index arguments, Pop());
  WB_TRY(const Index callee, Pop());
  const Index reconstructed = ReconstructedClass(callee, arguments);
  if (reconstructed != Graph::kNone) return PushObject(reconstructed, Graph::kEmptyTuple);
  return PushObject(callee, arguments);
}

Status Machine::NewObject(bool with_keywords) {
  if (with_keywords) {
    WB_TRY(const Index keywords, Pop());
    const Node& node = graph_.nodes[keywords];
    if (node.kind != Kind::kDict || node.link != 0) {
      return Refused("a call with keyword arguments");
    }
  }
  return Reduce();
}

Status Machine::Instance() {
  WB_TRY(const size_t from, PopMark());
  WB_TRY(const Index arguments, AddTuple(std::span<const Index>(stack_).subspan(from)));
  stack_.resize(from);
  WB_RETURN_IF_ERROR(PushTextGlobal());
  WB_TRY(const Index callee, Pop());
  return PushObject(callee, arguments);
}

Status Machine::ObjectToMark() {
  WB_TRY(const size_t from, PopMark());
  if (from == stack_.size()) return Invalid("OBJ without a class");
  const Index callee = stack_[from];
  WB_TRY(const Index arguments, AddTuple(std::span<const Index>(stack_).subspan(from + 1)));
  stack_.resize(from);
  return PushObject(callee, arguments);
}

Status Machine::Build() {
  WB_TRY(const Index state, Pop());
  WB_TRY(const Index target, Top());
  const Node& node = graph_.nodes[target];
  if (node.kind != Kind::kObject) {
    return Refused(fmt::format("it sets the state of {}", Describe(node.kind)), kRefusedHint);
  }
  Object& object = graph_.objects[node.link];
  // No writer does: a second one could hide the first from a reader of the file.
  if (object.has_state) return Refused("it sets the state of an object twice", kRefusedHint);
  object.state = state;
  object.has_state = true;
  return {};
}

}  // namespace weighbridge::pickle
