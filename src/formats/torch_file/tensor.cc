// From the call that would make a tensor to its place in the file (torch/_utils.py,
// torch/_tensor.py, torch/serialization.py).
#include <fmt/format.h>

#include "base/checked.h"
#include "base/strings.h"
#include "formats/torch_file/archive.h"
#include "formats/torch_file/dtypes.h"

namespace weighbridge {
namespace {

using pickle::Kind;
using pickle::Value;

constexpr std::string_view kRebuild = "torch._utils._rebuild_";
constexpr std::string_view kRebuildFromType = "torch._tensor._rebuild_from_type";

// A storage as its persistent id describes it, found in the file.
struct Storage {
  std::optional<DType> dtype;  // nullopt: untyped
  uint64_t offset = 0, nbytes = 0;
};

// The call that makes the tensor itself, without the wrappers around it.
struct Call {
  std::string_view function;  // "tensor_v2"
  Value arguments;
};

tl::unexpected<Error> Invalid(std::string what, const std::string& where) {
  return Corrupt("storage-invalid", std::move(what), where);
}

tl::unexpected<Error> Unsupported(std::string what, const std::string& where) {
  return Fail(ErrorKind::kUnsupported, "unsupported-tensor", std::move(what), where);
}

std::string Printed(std::string_view text) {
  return CutMiddle(ToPrintable(text.substr(0, 400)), 80);
}

Result<Call> Unwrap(Value value, const std::string& where) {
  constexpr int kMostWrappers = 8;
  for (int i = 0; i < kMostWrappers; ++i) {
    std::string_view name = value.class_name();
    Value arguments = value.arguments();
    if (name.starts_with(kRebuildFromType)) {
      // (function, class, arguments, state): a tensor with attributes, or a subclass.
      const std::string_view type = arguments[1].text();
      if (type != "torch.Tensor" && type != "torch.nn.parameter.Parameter" &&
          type != "torch.nn.parameter.Buffer") {
        return Unsupported(fmt::format("a tensor of class '{}'", Printed(type)), where);
      }
      name = arguments[0].text();
      arguments = arguments[2];
    }
    if (!name.starts_with(kRebuild)) return Invalid("a value that is no tensor", where);
    name.remove_prefix(kRebuild.size());
    if (name != "parameter" && name != "parameter_with_state") return Call{name, arguments};
    value = arguments[0];
  }
  return Invalid("a Parameter in a Parameter in a Parameter ...", where);
}

// A tuple of integers, or a torch.Size of one.
Result<std::vector<int64_t>> Integers(Value value, std::string_view what,
                                      const std::string& where) {
  if (value.class_name() == "torch.Size") value = value.arguments()[0];
  if (!value.is(Kind::kTuple)) {
    return Invalid(fmt::format("a tensor whose {} is no tuple", what), where);
  }
  std::vector<int64_t> integers;
  for (size_t i = 0; i < value.size(); ++i) {
    if (!value[i].is(Kind::kInt) || value[i].integer() < 0) {
      return Invalid(fmt::format("a tensor whose {} is not of integers from 0", what), where);
    }
    integers.push_back(value[i].integer());
  }
  return integers;
}

bool IsContiguous(const TorchTensor& tensor) {
  int64_t expected = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] == 1) continue;
    if (tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

// One more than the highest index that the tensor, which is not empty, reaches in its storage.
std::optional<uint64_t> Reach(const TorchTensor& tensor, uint64_t first) {
  std::optional<uint64_t> reach = CheckedAdd(first, 1);
  for (size_t i = 0; reach && i < tensor.shape.size(); ++i) {
    const auto steps = CheckedMul(static_cast<uint64_t>(tensor.shape[i] - 1),
                                  static_cast<uint64_t>(tensor.strides[i]));
    reach = steps ? CheckedAdd(*reach, *steps) : std::nullopt;
  }
  return reach;
}

// The parts of a persistent id: ('storage', class, key, location, elements).
Result<Storage> FindStorage(const TorchArchive& file, const Value& persistent) {
  const Value id = persistent[0];
  if (!persistent.is(Kind::kPersistent) || !id.is(Kind::kTuple) || id.size() != 5 ||
      id[0].text() != "storage" || !id[1].is(Kind::kGlobal) || !id[2].is(Kind::kString) ||
      !id[4].is(Kind::kInt) || id[4].integer() < 0) {
    return Invalid("a tensor without a storage in this file", file.where);
  }
  const std::string_view type = id[1].text(), key = id[2].text();
  Storage storage;
  storage.dtype = DTypeOfTorchStorage(type);
  if (!storage.dtype && !IsUntypedTorchStorage(type)) {
    return Unsupported(fmt::format("a tensor in a storage of class '{}'", Printed(type)),
                       file.where);
  }
  if (id[3].text() == "meta") {
    return Unsupported("a tensor on the device 'meta', which has no data", file.where);
  }
  const auto nbytes = BytesFor(storage.dtype.value_or(DType::kU8), id[4].integer());
  const ZipMember* member = file.Find(fmt::format("data/{}", key));
  if (member == nullptr) {
    // A storage without bytes may have no member.
    if (nbytes == 0u) return storage;
    return Invalid(fmt::format("the archive has no storage 'data/{}'", Printed(key)), file.where);
  }
  if (nbytes != member->size) {
    return Invalid(fmt::format("storage 'data/{}' has {} bytes, the pickle says {} elements of {}",
                               Printed(key), member->size, id[4].integer(), type),
                   fmt::format("{}:{}", file.where, member->offset));
  }
  storage.offset = member->offset;
  storage.nbytes = member->size;
  return storage;
}

// What `metadata` holds when the tensor is a view whose values are computed.
bool IsConjugateOrNegative(const Value& metadata) {
  for (const auto* key : {"conj", "neg"}) {
    const auto set = metadata.Get(key);
    if (set && (!set->is(Kind::kBool) || set->boolean())) return true;
  }
  return false;
}

Result<DType> ElementType(const Call& call, const Storage& storage, const std::string& where) {
  if (call.function == "tensor_v3") {
    const std::string_view name = call.arguments[6].text();
    if (const auto dtype = DTypeOfTorchDType(name)) return *dtype;
    return Unsupported(fmt::format("a tensor of dtype '{}'", Printed(name)), where);
  }
  if (storage.dtype) return *storage.dtype;
  return Invalid("a tensor without a dtype: its storage is untyped", where);
}

// Places a tensor of known dtype, shape and strides.
Status Place(TorchTensor& tensor, const Storage& storage, int64_t first, const std::string& where) {
  const auto numel = CheckedNumel(tensor.shape);
  const auto nbytes = numel ? BytesFor(tensor.dtype, *numel) : std::nullopt;
  if (!nbytes) return Invalid("a tensor whose size overflows", where);
  tensor.nbytes = *nbytes;
  tensor.offset = storage.offset;
  if (*numel == 0) return {};
  const uint64_t width = static_cast<uint64_t>(BitsOf(tensor.dtype)) / 8;
  const auto reach = Reach(tensor, static_cast<uint64_t>(first));
  if (!reach || *reach > storage.nbytes / width) {
    return Invalid(fmt::format("a tensor of shape {} from element {} reaches behind its storage of "
                               "{} bytes",
                               ToString(tensor.shape), first, storage.nbytes),
                   fmt::format("{}:{}", where, storage.offset));
  }
  tensor.offset += static_cast<uint64_t>(first) * width;
  tensor.contiguous = IsContiguous(tensor);
  return {};
}

}  // namespace

bool TorchFile::IsTensor(const Value& value) {
  return value.class_name().starts_with(kRebuild) ||
         value.class_name().starts_with(kRebuildFromType);
}

Result<TorchTensor> TorchFile::Tensor(const Value& value) const {
  const std::string& where = rep_->where;
  WB_TRY(const Call call, Unwrap(value, where));
  const bool v3 = call.function == "tensor_v3";
  if (!v3 && call.function != "tensor_v2" && call.function != "tensor") {
    return Unsupported(
        fmt::format("a tensor that torch rebuilds by '_rebuild_{}'", Printed(call.function)),
        where);
  }
  // (storage, offset, size, stride, requires_grad, hooks, [dtype of v3,] [metadata])
  const Value& arguments = call.arguments;
  if (arguments.size() < (call.function == "tensor" ? 4u : v3 ? 7u : 6u)) {
    return Invalid("a tensor with too few arguments", where);
  }
  WB_TRY(const Storage storage, FindStorage(*rep_, arguments[0]));
  if (!arguments[1].is(Kind::kInt) || arguments[1].integer() < 0) {
    return Invalid("a tensor whose offset is no integer from 0", where);
  }
  if (IsConjugateOrNegative(arguments[v3 ? 7 : 6])) {
    return Unsupported("a conjugate or negative view; store a copy of it instead", where);
  }
  TorchTensor tensor;
  WB_TRY(tensor.dtype, ElementType(call, storage, where));
  WB_TRY(tensor.shape, Integers(arguments[2], "size", where));
  WB_TRY(tensor.strides, Integers(arguments[3], "stride", where));
  if (tensor.strides.size() != tensor.shape.size()) {
    return Invalid("a tensor with a size and a stride of different lengths", where);
  }
  WB_RETURN_IF_ERROR(Place(tensor, storage, arguments[1].integer(), where));
  return tensor;
}

}  // namespace weighbridge
