#include "checks/layer_cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

namespace weighbridge {
namespace {

struct NamedLayer {
  std::string head;  // "model.layers."
  int64_t number = 0;
};

// "layers.12." at `begin`, which is the start of a name's component.
std::optional<NamedLayer> LayerAt(const std::string& name, size_t begin) {
  for (const std::string_view word : {"layers.", "layer.", "h.", "blocks."}) {
    if (name.compare(begin, word.size(), word) != 0) continue;
    const size_t digits = begin + word.size();
    int64_t number = 0;
    const char* stop = name.data() + name.size();
    const auto [end, error] = std::from_chars(name.data() + digits, stop, number);
    if (error == std::errc() && number >= 0 && end != stop && *end == '.') {
      return NamedLayer{name.substr(0, digits), number};
    }
  }
  return std::nullopt;
}

// The outermost layer that the name speaks of.
std::optional<NamedLayer> LayerOf(const std::string& name) {
  if (auto layer = LayerAt(name, 0)) return layer;
  for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
    if (auto layer = LayerAt(name, dot + 1)) return layer;
  }
  return std::nullopt;
}

}  // namespace

Result<LayerCut> LayerCut::ByFamily(const Model& whole, const Model& small) {
  LayerCut cut;
  for (const StackRule& stack : whole.spec().stacks) {
    for (int64_t layer = 0; layer < whole.LayersOf(stack); ++layer) {
      WB_TRY(std::string from, whole.HfPrefix(stack, layer));
      std::optional<std::string> to;
      if (layer < small.LayersOf(stack)) {
        WB_TRY(to, small.HfPrefix(stack, layer));
      }
      cut.prefixes_.emplace(std::move(from), std::move(to));
    }
    const size_t number = stack.hf.find("{layer}");
    if (number != std::string::npos) cut.heads_.push_back(whole.HfPrefix(stack));
  }
  return cut;
}

Result<LayerCut> LayerCut::ByName(std::span<const TensorInfo> tensors, int64_t whole, int64_t small,
                                  bool without_mtp) {
  std::map<std::string, std::set<int64_t>> numbers;
  for (const TensorInfo& tensor : tensors) {
    if (const auto layer = LayerOf(tensor.name)) numbers[layer->head].insert(layer->number);
  }
  LayerCut cut;
  const auto add = [&](bool more) {
    for (const auto& [head, found] : numbers) {
      const auto count = static_cast<int64_t>(found.size());
      if (*found.rbegin() != count - 1 || (more ? count < whole : count != whole)) continue;
      for (int64_t layer = 0; layer < whole; ++layer) {
        const std::string prefix = fmt::format("{}{}.", head, layer);
        cut.prefixes_.emplace(prefix, layer < small ? std::optional(prefix) : std::nullopt);
      }
      if (more) cut.heads_.push_back(head);
    }
  };
  add(false);
  if (cut.prefixes_.empty() && without_mtp) add(true);
  if (!cut.prefixes_.empty()) return cut;
  return Fail(
      ErrorKind::kUnsupported, "layers-unknown",
      fmt::format("no tensors are named layers.0 to layers.{}", whole - 1) +
          (without_mtp ? "" : " and not beyond"),
      "",
      "--without-mtp leaves out the layers that follow; a family file says where layers are: "
      "--family FILE (docs/families.md)");
}

const std::optional<std::string>* LayerCut::Find(const std::string& name, size_t& length) const {
  for (size_t dot = name.rfind('.'); dot != std::string::npos && dot > 0;
       dot = name.rfind('.', dot - 1)) {
    const auto it = prefixes_.find(name.substr(0, dot + 1));
    if (it == prefixes_.end()) continue;
    length = dot + 1;
    return &it->second;
  }
  return nullptr;
}

std::optional<std::string> LayerCut::NewName(const std::string& name) const {
  size_t length = 0;
  if (const auto* prefix = Find(name, length)) {
    if (!*prefix) return std::nullopt;
    return **prefix + name.substr(length);
  }
  if (Stray(name)) return std::nullopt;
  return name;
}

bool LayerCut::Stray(const std::string& name) const {
  size_t length = 0;
  if (Find(name, length) != nullptr) return false;
  return std::any_of(heads_.begin(), heads_.end(), [&](const std::string& head) {
    if (!name.starts_with(head)) return false;
    const size_t end = name.find_first_not_of("0123456789", head.size());
    return end != std::string::npos && end > head.size() && name[end] == '.';
  });
}

}  // namespace weighbridge
