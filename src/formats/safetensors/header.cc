#include "formats/safetensors/header.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "base/checked.h"
#include "formats/safetensors/foreign.h"
#include "formats/safetensors/json_input.h"

namespace weighbridge {
namespace {

namespace od = simdjson::ondemand;

static_assert(std::endian::native == std::endian::little, "files are read in place");

uint64_t LittleEndian64(std::span<const std::byte> bytes) {
  uint64_t value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

// Checks the fixed part and returns the JSON text.
Result<std::span<const std::byte>> HeaderText(std::span<const std::byte> file,
                                              const std::string& name) {
  if (auto foreign = DescribeForeignFile(file)) {
    return Corrupt(foreign->id, foreign->what, name + ":0", foreign->hint);
  }
  if (file.size() < 8) {
    return Corrupt("file-truncated",
                   fmt::format("the file has {} bytes, a safetensors file has at least 8 of header "
                               "length",
                               file.size()),
                   fmt::format("{}:{}", name, file.size()), kFetchAgainHint);
  }
  const uint64_t length = LittleEndian64(file);
  if (length > file.size() - 8) {
    // A length far beyond any header was not cut off, it was never a length.
    if (length > (uint64_t{1} << 40)) {
      return Corrupt("header-corrupt",
                     fmt::format("the header length {} is not a safetensors header length", length),
                     name + ":0", "the file is not in safetensors format, or its start is damaged");
    }
    return Corrupt("file-truncated",
                   fmt::format("the file ends inside of its header: expected {} bytes of header, "
                               "found {}",
                               length, file.size() - 8),
                   fmt::format("{}:{}", name, file.size()), kFetchAgainHint);
  }
  const auto text = file.subspan(8, length);
  if (text.empty() || text[0] != std::byte{'{'}) {
    return Corrupt("header-corrupt",
                   text.empty() ? "the header length is 0"
                                : fmt::format("the header does not start with '{{': found byte "
                                              "0x{:02x}",
                                              static_cast<unsigned>(text[0])),
                   name + ":8",
                   text.empty() ? "the file looks like a download that was never filled" : "");
  }
  return text;
}

// Parses one header. The parser's string buffer holds unescaped names while it lives.
class HeaderParser {
 public:
  HeaderParser(std::span<const std::byte> file, std::span<const std::byte> text,
               const std::string& name)
      : file_(file), text_(text), name_(name), input_(text, file) {}

  Result<SafetensorsHeader> Parse() {
    WB_RETURN_IF_ERROR(CheckPadding());
    od::document document;
    if (auto code = parser_.iterate(input_.view()).get(document)) return FailJson(code);
    document_ = &document;
    od::object root;
    if (auto code = document.get_object().get(root)) return FailJson(code);
    SafetensorsHeader header;
    header.json_bytes = text_.size();
    header.tensors.reserve(CountEntries());
    for (auto element : root) {
      od::field field;
      if (auto code = std::move(element).get(field)) return FailJson(code);
      std::string_view key;
      if (auto code = field.unescaped_key().get(key)) return FailJson(code);
      if (key == "__metadata__") {
        WB_RETURN_IF_ERROR(ParseMetadata(field.value(), header));
      } else {
        WB_RETURN_IF_ERROR(ParseTensor(key, field.value(), header));
      }
    }
    if (!document.at_end()) return FailJson(simdjson::TRAILING_CONTENT);
    return header;
  }

 private:
  // After the closing brace only spaces may follow: the reference writes no other padding, and
  // other readers stop at a NUL.
  Status CheckPadding() const {
    size_t end = text_.size();
    while (end > 0 && text_[end - 1] == std::byte{' '}) --end;
    if (text_[end - 1] == std::byte{'}'}) return {};
    const bool nul = text_[end - 1] == std::byte{0};
    return Corrupt(
        "header-corrupt",
        fmt::format("the header does not end with '}}' and spaces: found byte 0x{:02x}{}",
                    static_cast<unsigned>(text_[end - 1]),
                    nul ? " (NUL bytes are not padding)" : ""),
        At(end - 1));
  }

  // An upper bound that no header can inflate: an entry has at least 52 bytes.
  size_t CountEntries() const {
    constexpr std::string_view kKey = "\"data_offsets\"";
    const std::string_view all(reinterpret_cast<const char*>(text_.data()), text_.size());
    size_t count = 0;
    for (size_t at = all.find(kKey); at != all.npos; at = all.find(kKey, at + kKey.size())) ++count;
    return std::min(count, all.size() / 52 + 1);
  }

  Status ParseMetadata(od::value value, SafetensorsHeader& header) {
    if (std::exchange(seen_metadata_, true)) return FailEntry("__metadata__", "appears twice");
    od::object object;
    if (value.get_object().get(object)) {
      return FailEntry("__metadata__", "is not an object of strings");
    }
    for (auto element : object) {
      od::field field;
      if (auto code = std::move(element).get(field)) return FailJson(code, "__metadata__");
      std::string_view key, text;
      if (auto code = field.unescaped_key().get(key)) return FailJson(code, "__metadata__");
      if (auto code = field.value().get_string().get(text)) {
        if (code != simdjson::INCORRECT_TYPE) return FailJson(code, "__metadata__");
        return FailEntry("__metadata__",
                         fmt::format("has a value that is not a string ('{}')", key));
      }
      if (!header.metadata.emplace(key, text).second) {
        return FailEntry("__metadata__", fmt::format("has the key '{}' twice", key));
      }
    }
    return {};
  }

  Status ParseTensor(std::string_view key, od::value value, SafetensorsHeader& header) {
    TensorInfo& tensor = header.tensors.emplace_back();
    tensor.name = key;
    tensor_ = &tensor.name;
    od::object object;
    if (auto code = value.get_object().get(object)) {
      return code == simdjson::INCORRECT_TYPE ? FailTensor("is not an object")
                                              : FailJson(code, *tensor_);
    }
    bool has_dtype = false, has_shape = false, has_offsets = false;
    for (auto element : object) {
      od::field field;
      if (auto code = std::move(element).get(field)) return FailJson(code, *tensor_);
      std::string_view part;
      if (auto code = field.unescaped_key().get(part)) return FailJson(code, *tensor_);
      bool* seen = part == "dtype"          ? &has_dtype
                   : part == "shape"        ? &has_shape
                   : part == "data_offsets" ? &has_offsets
                                            : nullptr;
      if (seen == nullptr) return FailTensor(fmt::format("has the unknown key '{}'", part));
      if (std::exchange(*seen, true))
        return FailTensor(fmt::format("has the key '{}' twice", part));
      if (seen == &has_dtype) WB_RETURN_IF_ERROR(ParseDType(field.value(), tensor));
      if (seen == &has_shape) WB_RETURN_IF_ERROR(ParseShape(field.value(), tensor));
      if (seen == &has_offsets) WB_RETURN_IF_ERROR(ParseOffsets(field.value(), tensor));
    }
    if (!has_dtype) return FailTensor("has no 'dtype'");
    if (!has_shape) return FailTensor("has no 'shape'");
    if (!has_offsets) return FailTensor("has no 'data_offsets'");
    return CheckSize(tensor);
  }

  Status ParseDType(od::value value, TensorInfo& tensor) {
    std::string_view text;
    if (auto code = value.get_string().get(text)) {
      return code == simdjson::INCORRECT_TYPE ? FailTensor("has a 'dtype' that is not a string")
                                              : FailJson(code, *tensor_);
    }
    const auto dtype = ParseSafetensorsName(text);
    if (!dtype) return FailTensor(fmt::format("has the unknown dtype '{}'", text));
    tensor.dtype = *dtype;
    return {};
  }

  Status ParseShape(od::value value, TensorInfo& tensor) {
    od::array array;
    if (auto code = value.get_array().get(array)) {
      return code == simdjson::INCORRECT_TYPE ? FailTensor("has a 'shape' that is not a list")
                                              : FailJson(code, *tensor_);
    }
    extents_.clear();
    for (auto element : array) {
      uint64_t extent;
      if (auto code = element.get_uint64().get(extent)) return FailNumber(code, "shape");
      if (extent > INT64_MAX)
        return FailTensor(fmt::format("has the extent {} in its shape", extent));
      extents_.push_back(static_cast<int64_t>(extent));
    }
    tensor.shape.assign(extents_.begin(), extents_.end());  // exact capacity
    return {};
  }

  Status ParseOffsets(od::value value, TensorInfo& tensor) {
    od::array array;
    if (auto code = value.get_array().get(array)) {
      return code == simdjson::INCORRECT_TYPE ? FailTensor("has 'data_offsets' that are not a list")
                                              : FailJson(code, *tensor_);
    }
    uint64_t offsets[2] = {0, 0};
    size_t count = 0;
    for (auto element : array) {
      uint64_t offset;
      if (auto code = element.get_uint64().get(offset)) return FailNumber(code, "data_offsets");
      if (count < 2) offsets[count] = offset;
      ++count;
    }
    if (count != 2) return FailTensor(fmt::format("has {} data_offsets: expected 2", count));
    if (offsets[0] > offsets[1]) {
      return FailTensor(fmt::format("has data_offsets [{}, {}]: the end is before the beginning",
                                    offsets[0], offsets[1]));
    }
    tensor.offset = offsets[0];
    tensor.nbytes = offsets[1] - offsets[0];
    return {};
  }

  Status CheckSize(const TensorInfo& tensor) const {
    const auto numel = CheckedNumel(tensor.shape);
    const auto bits = numel ? CheckedMul(static_cast<uint64_t>(*numel),
                                         static_cast<uint64_t>(BitsOf(tensor.dtype)))
                            : std::nullopt;
    if (!bits) {
      return FailTensor(
          fmt::format("has the shape {}: its size overflows 64 bits", ToString(tensor.shape)));
    }
    if (*bits % 8 != 0) {
      return FailTensor(fmt::format("has {} elements of {} bits: they do not end on a byte", *numel,
                                    BitsOf(tensor.dtype)));
    }
    if (*bits / 8 != tensor.nbytes) {
      return FailTensor(fmt::format("has {} bytes in data_offsets: {} {} needs {}", tensor.nbytes,
                                    SafetensorsName(tensor.dtype), ToString(tensor.shape),
                                    *bits / 8));
    }
    return {};
  }

  std::string At(uint64_t offset_in_text) const {
    return fmt::format("{}:{}", name_, 8 + offset_in_text);
  }

  // Where the parser stands, as an offset into the text; 0 when it cannot say.
  uint64_t Position() const {
    const char* location = nullptr;
    if (document_ == nullptr || document_->current_location().get(location)) return 0;
    const auto offset = location - input_.view().data();
    return offset >= 0 && static_cast<size_t>(offset) <= text_.size()
               ? static_cast<uint64_t>(offset)
               : 0;
  }

  tl::unexpected<Error> FailJson(simdjson::error_code code, std::string_view near = "") const {
    return Corrupt("header-corrupt",
                   fmt::format("the header is not valid: {}{}", DescribeJsonError(code),
                               near.empty() ? "" : fmt::format(" (near '{}')", near)),
                   At(Position()));
  }
  tl::unexpected<Error> FailEntry(std::string_view entry, std::string_view problem) const {
    return Corrupt("header-corrupt", fmt::format("{} in the header {}", entry, problem),
                   At(Position()));
  }
  tl::unexpected<Error> FailTensor(std::string_view problem) const {
    return Corrupt("header-corrupt", fmt::format("tensor '{}' {}", *tensor_, problem),
                   At(Position()));
  }
  tl::unexpected<Error> FailNumber(simdjson::error_code code, std::string_view part) const {
    const bool number = code == simdjson::INCORRECT_TYPE || code == simdjson::NUMBER_ERROR ||
                        code == simdjson::BIGINT_ERROR || code == simdjson::NUMBER_OUT_OF_RANGE;
    if (!number) return FailJson(code, *tensor_);
    return FailTensor(
        fmt::format("has something in '{}' that is not a non-negative integer", part));
  }

  std::span<const std::byte> file_, text_;
  const std::string& name_;
  JsonInput input_;
  od::parser parser_;
  od::document* document_ = nullptr;
  const std::string* tensor_ = nullptr;
  bool seen_metadata_ = false;
  std::vector<int64_t> extents_;
};

Status SortByName(std::vector<TensorInfo>& tensors, const std::string& name) {
  const auto by_name = [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; };
  if (!std::is_sorted(tensors.begin(), tensors.end(), by_name)) {
    std::sort(tensors.begin(), tensors.end(), by_name);
  }
  const auto twice =
      std::adjacent_find(tensors.begin(), tensors.end(),
                         [](const TensorInfo& a, const TensorInfo& b) { return a.name == b.name; });
  if (twice == tensors.end()) return {};
  return Corrupt("duplicate-name", fmt::format("tensor '{}' is in the header twice", twice->name),
                 name + ":8");
}

// The ranges must tile [0, data_bytes). `offset` is still relative to the data section.
Status CheckCoverage(const std::vector<TensorInfo>& tensors, uint64_t data_start,
                     uint64_t file_bytes, const std::string& name) {
  std::vector<uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    const TensorInfo& x = tensors[a];
    const TensorInfo& y = tensors[b];
    return std::pair(x.offset, x.nbytes) < std::pair(y.offset, y.nbytes);
  });
  uint64_t end = 0;
  const TensorInfo* previous = nullptr;
  for (uint32_t i : order) {
    const TensorInfo& t = tensors[i];
    if (t.offset < end) {
      return Corrupt(
          "bytes-overlap",
          fmt::format("tensors '{}' [{}, {}) and '{}' [{}, {}) claim the same bytes",
                      previous->name, previous->offset, end, t.name, t.offset, t.offset + t.nbytes),
          fmt::format("{}:{}", name, data_start + t.offset));
    }
    if (t.offset > end) {
      return Corrupt("bytes-overlap",
                     fmt::format("{} bytes before tensor '{}' belong to no tensor: expected it at "
                                 "{}, found {}",
                                 t.offset - end, t.name, end, t.offset),
                     fmt::format("{}:{}", name, data_start + end));
    }
    end = t.offset + t.nbytes;
    previous = &t;
  }
  const uint64_t found = file_bytes - data_start;
  if (end > found) {
    return Corrupt(
        "file-truncated",
        fmt::format("the file ends inside of its tensor data: expected {} bytes of data, "
                    "found {}",
                    end, found),
        fmt::format("{}:{}", name, file_bytes), kFetchAgainHint);
  }
  if (end < found) {
    return Corrupt(
        "bytes-overlap",
        fmt::format("{} bytes at the end belong to no tensor: expected {} bytes of data, "
                    "found {}",
                    found - end, end, found),
        fmt::format("{}:{}", name, data_start + end));
  }
  return {};
}

}  // namespace

Result<SafetensorsHeader> ParseSafetensorsHeader(std::span<const std::byte> file,
                                                 const std::string& name) {
  WB_TRY(const auto text, HeaderText(file, name));
  WB_TRY(SafetensorsHeader header, HeaderParser(file, text, name).Parse());
  WB_RETURN_IF_ERROR(SortByName(header.tensors, name));
  WB_RETURN_IF_ERROR(CheckCoverage(header.tensors, header.data_start(), file.size(), name));
  for (TensorInfo& tensor : header.tensors) tensor.offset += header.data_start();
  return header;
}

bool LooksLikeSafetensors(std::span<const std::byte> file) {
  return file.size() > 8 && file[8] == std::byte{'{'} && LittleEndian64(file) < (uint64_t{1} << 40);
}

}  // namespace weighbridge
