#include "formats/torch_file/state_dict.h"

#include <fmt/format.h>

#include "base/strings.h"

namespace weighbridge {
namespace {

using pickle::Kind;
using pickle::Value;

constexpr char kHint[] =
    "save the state dict alone: torch.save(model.state_dict(), \"pytorch_model.bin\")";

// An OrderedDict that Python 2 wrote has its entries in the arguments; it is none of these.
bool IsDict(const Value& value) {
  return value.is(Kind::kDict) ||
         (value.class_name() == "collections.OrderedDict" && value.arguments().size() == 0);
}

std::string Printed(std::string_view text) {
  return CutMiddle(ToPrintable(text.substr(0, 400)), 80);
}

std::string Describe(const Value& value) {
  switch (value.kind()) {
    case Kind::kObject:
      return fmt::format("an object of '{}'", Printed(value.class_name()));
    case Kind::kNone:
      return "None";
    case Kind::kDict:
      return "a dict";
    case Kind::kList:
    case Kind::kTuple:
      return "a list";
    case Kind::kString:
      return "a string";
    default:
      return "a value";
  }
}

// Where the tensors are: the root, or what it holds under a name that trainers use.
Result<std::pair<Value, std::string>> FindDict(const Value& root, const std::string& where) {
  if (!IsDict(root)) {
    return Fail(ErrorKind::kUnsupported, "unsupported-format",
                fmt::format("the file holds {}, not a dict of tensors", Describe(root)), where,
                kHint);
  }
  for (const auto* key : {"state_dict", "model"}) {
    const auto inner = root.Get(key);
    if (inner && IsDict(*inner)) return std::pair(*inner, std::string(key));
  }
  return std::pair(root, std::string());
}

tl::unexpected<Error> NotFlat(const std::string& name, const Value& value,
                              const std::string& where) {
  return Fail(ErrorKind::kUnsupported, "unsupported-format",
              fmt::format("'{}' is {}, not a tensor: the file is no flat dict of tensors",
                          Printed(name), Describe(value)),
              where, kHint);
}

}  // namespace

Result<StateDict> ReadStateDict(const TorchFile& file, const std::string& where) {
  WB_TRY(const auto found, FindDict(file.root(), where));
  const auto& [dict, key] = found;
  StateDict result{{}, key};
  for (size_t i = 0; i < dict.size(); ++i) {
    const auto [name, value] = dict.entry(i);
    if (!name.is(Kind::kString)) {
      return Fail(ErrorKind::kUnsupported, "unsupported-format",
                  fmt::format("a key of the dict is {}, not a name", Describe(name)), where, kHint);
    }
    // What Megatron's modules keep beside weights: None, bytes or an empty tensor.
    if (name.text().ends_with("_extra_state") && !TorchFile::IsTensor(value)) continue;
    if (!TorchFile::IsTensor(value)) return NotFlat(std::string(name.text()), value, where);
    auto tensor = file.Tensor(value);
    if (!tensor) {
      Error error = std::move(tensor).error();
      error.what = fmt::format("'{}': {}", Printed(name.text()), error.what);
      return Fail(std::move(error));
    }
    result.tensors.push_back({std::string(name.text()), std::move(*tensor)});
  }
  return result;
}

}  // namespace weighbridge
