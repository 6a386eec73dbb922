#include "python/src/checkpoints.h"

#include <fmt/format.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <utility>

#include "base/file.h"
#include "base/hash.h"
#include "cli/model_input.h"
#include "python/src/errors.h"
#include "python/src/held_tensors.h"
#include "python/src/work.h"

namespace nb = nanobind;

namespace weighbridge::python {
namespace {

using Row = std::tuple<std::string, std::string, Shape, Bytes>;

std::span<const std::byte> AsBytes(const Bytes& bytes) {
  return {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
}

using Out = nb::ndarray<const uint8_t, nb::numpy, nb::ndim<1>>;

// The bytes in place; they keep `self` alive. A tensor that the files hold in several pieces is
// joined first.
Out Data(const nb::handle& self, const std::string& name) {
  const auto& tensors = nb::cast<const Tensors&>(self);
  const TensorInfo& info = tensors.Find(name);
  std::span<const std::byte> bytes;
  Run([&] { bytes = tensors.checkpoint().Data(info); });
  return {bytes.data(), {bytes.size()}, self};
}

using Writable = nb::ndarray<uint8_t, nb::numpy, nb::ndim<1>>;

// The same for who may write to it: in memory alone, a file never changes. None where that cannot
// be promised.
nb::object PrivateData(const nb::handle& self, const std::string& name) {
  const auto& tensors = nb::cast<const Tensors&>(self);
  const TensorInfo& info = tensors.Find(name);
  std::span<const std::byte> bytes;
  Status allowed;
  Run([&] {
    bytes = tensors.checkpoint().Data(info);
    allowed = AllowPrivateWrites(bytes);
  });
  if (!allowed) return nb::none();
  return nb::cast(Writable(const_cast<std::byte*>(bytes.data()), {bytes.size()}, self));
}

std::vector<std::string> Names(const Tensors& self) {
  std::vector<std::string> names;
  for (const TensorInfo& info : self.checkpoint().tensors()) names.push_back(info.name);
  return names;
}

std::string Hash(const Bytes& bytes) {
  std::string hex;
  Run([&] { hex = Xxh3Hex(AsBytes(bytes)); });
  return hex;
}

}  // namespace

TensorView ViewOf(const std::string& dtype, const Shape& shape, const Bytes& bytes) {
  const auto known = ParseShortName(dtype);
  if (!known) {
    Raise({ErrorKind::kUnsupported, "dtype", fmt::format("'{}' is no known dtype", dtype)});
  }
  int64_t elements = 1;
  for (const int64_t extent : shape) elements *= extent;
  if (BytesFor(*known, elements) != bytes.size()) {
    Raise({ErrorKind::kInvalid, "tensor-bytes",
           fmt::format("a tensor {} of {} has {} bytes", ToString(shape), dtype, bytes.size())});
  }
  return {*known, shape, AsBytes(bytes)};
}

Tensors Tensors::Open(const std::string& path) {
  Result<std::unique_ptr<Checkpoint>> opened = nullptr;
  Run([&] { opened = cli::OpenStateDict(path); });
  Tensors out;
  out.checkpoint_ = OrRaise(std::move(opened));
  return out;
}

Tensors Tensors::Hold(const nb::list& tensors) {
  std::map<std::string, TensorView> views;
  // The arrays as they were taken: what they are of may be gone when the list is.
  nb::list arrays;
  for (const nb::handle item : tensors) {
    auto [name, dtype, shape, bytes] = nb::cast<Row>(item);
    arrays.append(bytes);
    if (!views.emplace(name, ViewOf(dtype, shape, bytes)).second) {
      Raise({ErrorKind::kInvalid, "duplicate-name", "two tensors have one name", name});
    }
  }
  Tensors out;
  out.checkpoint_ = std::make_unique<HeldTensors>("memory", std::move(views));
  out.lent_ = std::move(arrays);
  return out;
}

const TensorInfo& Tensors::Find(const std::string& name) const {
  const TensorInfo* info = checkpoint_->Find(name);
  if (info == nullptr) throw nb::key_error(name.c_str());
  return *info;
}

void BindCheckpoints(nb::module_& module) {
  nb::class_<Tensors>(module, "Tensors")
      .def_static("open", &Tensors::Open, nb::arg("path"))
      .def_static("hold", &Tensors::Hold, nb::arg("tensors"))
      .def("names", &Names)
      .def("format", [](const Tensors& self) { return std::string(self.checkpoint().format()); })
      .def(
          "info",
          [](const Tensors& self, const std::string& name) {
            const TensorInfo& info = self.Find(name);
            return std::tuple(std::string(ShortName(info.dtype)), info.shape, info.nbytes);
          },
          nb::arg("name"))
      .def(
          "data", [](const nb::handle self, const std::string& name) { return Data(self, name); },
          nb::arg("name"))
      .def(
          "private_data",
          [](const nb::handle self, const std::string& name) { return PrivateData(self, name); },
          nb::arg("name"));
  module.def("xxh3", &Hash, nb::arg("bytes"));
}

}  // namespace weighbridge::python
