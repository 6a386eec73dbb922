#include "formats/torch_file/write.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/checked.h"
#include "base/crc32.h"

namespace weighbridge {
namespace {

// Written before the storages and after them (torch/serialization.py, _save; PyTorchStreamWriter).
constexpr std::string_view kFormatVersion = "1", kAlignment = "64", kByteOrder = "little";
constexpr std::string_view kVersion = "3\n";

struct TorchDType {
  DType dtype;
  std::string_view name;
  // torch.save's class of storage; dtypes newer than those classes have none and are written by
  // _rebuild_tensor_v3 with an UntypedStorage (torch/_tensor.py, _reduce_ex_internal).
  std::string_view storage;
};

constexpr std::array kDTypes = {
    TorchDType{DType::kBool, "bool", "BoolStorage"},
    TorchDType{DType::kU8, "uint8", "ByteStorage"},
    TorchDType{DType::kI8, "int8", "CharStorage"},
    TorchDType{DType::kF8E5M2, "float8_e5m2", ""},
    TorchDType{DType::kF8E4M3, "float8_e4m3fn", ""},
    TorchDType{DType::kF8E8M0, "float8_e8m0fnu", ""},
    TorchDType{DType::kF8E4M3Fnuz, "float8_e4m3fnuz", ""},
    TorchDType{DType::kF8E5M2Fnuz, "float8_e5m2fnuz", ""},
    TorchDType{DType::kI16, "int16", "ShortStorage"},
    TorchDType{DType::kU16, "uint16", ""},
    TorchDType{DType::kF16, "float16", "HalfStorage"},
    TorchDType{DType::kBF16, "bfloat16", "BFloat16Storage"},
    TorchDType{DType::kI32, "int32", "IntStorage"},
    TorchDType{DType::kU32, "uint32", ""},
    TorchDType{DType::kF32, "float32", "FloatStorage"},
    TorchDType{DType::kC64, "complex64", "ComplexFloatStorage"},
    TorchDType{DType::kF64, "float64", "DoubleStorage"},
    TorchDType{DType::kI64, "int64", "LongStorage"},
    TorchDType{DType::kU64, "uint64", ""},
};

const TorchDType* FindDType(DType dtype) {
  const auto* found = std::find_if(kDTypes.begin(), kDTypes.end(),
                                   [&](const TorchDType& row) { return row.dtype == dtype; });
  return found == kDTypes.end() ? nullptr : found;
}

void PickleInts(pickle::Writer& pickle, std::span<const int64_t> values) {
  pickle.Tuple(values.size());
  for (int64_t value : values) pickle.Int(value);
}

// As torch computes them: an extent of 0 counts as 1.
std::vector<int64_t> Strides(const Shape& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

// Whether the strides of a shape with an extent of 0 overflow too.
bool Countable(const Shape& shape) {
  Shape extents = shape;
  for (int64_t& extent : extents) extent = extent == 0 ? 1 : extent;
  return CheckedNumel(extents).has_value();
}

}  // namespace

Result<std::string_view> TorchDTypeName(DType dtype) {
  if (const TorchDType* row = FindDType(dtype)) return row->name;
  return Fail(ErrorKind::kUnsupported, "unsupported-dtype",
              fmt::format("torch files cannot hold tensors of dtype {}", ShortName(dtype)));
}

void PickleTensor(pickle::Writer& pickle, DType dtype, const Shape& shape, std::string_view key) {
  const TorchDType& row = *FindDType(dtype);
  const bool typed = !row.storage.empty();
  const int64_t numel = Numel(shape);
  pickle.Call("torch._utils", typed ? "_rebuild_tensor_v2" : "_rebuild_tensor_v3");
  pickle.Tuple(typed ? 6 : 7).PersistentId().Tuple(5).String("storage");
  if (typed) {
    pickle.Global("torch", row.storage);
  } else {
    pickle.Global("torch.storage", "UntypedStorage");
  }
  // The number of elements; of an UntypedStorage, of bytes.
  pickle.String(key).String("cpu").Int(typed ? numel : numel * BitsOf(dtype) / 8);
  pickle.Int(0);  // where the tensor begins in its storage
  PickleInts(pickle, shape);
  PickleInts(pickle, Strides(shape));
  pickle.Bool(false);                                  // requires_grad
  pickle.Call("collections", "OrderedDict").Tuple(0);  // backward hooks
  if (!typed) pickle.Global("torch", row.name);
}

void BeginTorchArchive(StoredZip& zip, std::string_view data_pkl) {
  zip.Add("data.pkl", data_pkl);
  zip.Add(".format_version", kFormatVersion);
  zip.Add(".storage_alignment", kAlignment);
  zip.Add("byteorder", kByteOrder);
}

std::string FinishTorchArchive(StoredZip& zip) {
  zip.Add("version", kVersion);
  const std::string id = zip.SerializationId();
  zip.Add(".data/serialization_id", id);
  return zip.Finish();
}

std::string TorchSave(std::string_view archive, std::string_view data_pkl,
                      std::span<const std::string> storages) {
  StoredZip zip{std::string(archive)};
  BeginTorchArchive(zip, data_pkl);
  for (size_t i = 0; i < storages.size(); ++i) zip.Add(fmt::format("data/{}", i), storages[i]);
  return FinishTorchArchive(zip);
}

std::string TorchTensorZip::Tail(uint32_t crc) const {
  StoredZip zip("archive");
  zip.Skip("data.pkl", pickle_bytes, pickle_crc);
  zip.Add(".format_version", kFormatVersion);
  zip.Add(".storage_alignment", kAlignment);
  zip.Add("byteorder", kByteOrder);
  zip.BeginData("data/0", data_bytes);
  zip.TakeText();
  zip.EndData(crc);
  return FinishTorchArchive(zip);
}

Result<TorchTensorZip> PlanTorchTensor(DType dtype, const Shape& shape) {
  WB_RETURN_IF_ERROR(TorchDTypeName(dtype));
  const auto numel = CheckedNumel(shape);
  const auto nbytes = numel && Countable(shape) ? BytesFor(dtype, *numel) : std::nullopt;
  // Far from the limit of the arithmetic below, and of a file.
  if (!nbytes || *nbytes > INT64_MAX / 2) {
    return Fail(ErrorKind::kInvalid, "invalid-tensor",
                fmt::format("a tensor {} {} is too large", ShortName(dtype), ToString(shape)));
  }
  pickle::Writer pickle(2);
  PickleTensor(pickle, dtype, shape, "0");
  const std::string data_pkl = std::move(pickle).Finish();
  StoredZip zip("archive");
  BeginTorchArchive(zip, data_pkl);
  zip.BeginData("data/0", *nbytes);
  TorchTensorZip plan;
  plan.head = zip.TakeText();
  plan.data_bytes = *nbytes;
  plan.pickle_crc = Crc32(data_pkl);
  plan.pickle_bytes = static_cast<uint32_t>(data_pkl.size());
  plan.tail_bytes = plan.Tail(0).size();
  return plan;
}

}  // namespace weighbridge
