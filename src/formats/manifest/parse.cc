#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/checked.h"
#include "base/file.h"
#include "base/strings.h"
#include "formats/manifest/manifest.h"
#include "formats/safetensors/json_input.h"

namespace weighbridge {
namespace {

namespace od = simdjson::ondemand;

constexpr size_t kMaxAxes = 64;
constexpr size_t kMaxStored = 16;
constexpr size_t kMaxNotHeld = 4096;

class Parser {
 public:
  Parser(std::span<const std::byte> text, std::span<const std::byte> mapping,
         const std::string& name)
      : name_(name), input_(text, mapping) {}

  Result<Manifest> Run() {
    od::document document;
    if (auto code = parser_.iterate(input_.view()).get(document)) return BadJson(code);
    document_ = &document;
    od::object root;
    if (document.get_object().get(root)) return Bad("is not a JSON object");
    for (auto element : root) {
      od::field field;
      if (auto code = std::move(element).get(field)) return BadJson(code);
      std::string_view key;
      if (auto code = field.unescaped_key().get(key)) return BadJson(code);
      if (key == "schema") {
        WB_RETURN_IF_ERROR(TakeSchema(field.value()));
      } else if (key == "family") {
        WB_TRY(manifest_.family, Text(field.value(), "family"));
      } else if (key == "not_held") {
        WB_RETURN_IF_ERROR(TakeNotHeld(field.value()));
      } else if (key == "tensors") {
        WB_RETURN_IF_ERROR(TakeTensors(field.value()));
      }
    }
    if (!document.at_end()) return BadJson(simdjson::TRAILING_CONTENT);
    if (!seen_schema_) return Bad(fmt::format("has no \"schema\": \"{}\"", kManifestSchema));
    if (manifest_.tensors.empty()) return Bad("lists no tensor");
    WB_RETURN_IF_ERROR(Sort());
    return std::move(manifest_);
  }

 private:
  Status TakeSchema(od::value value) {
    WB_TRY(const std::string schema, Text(value, "schema"));
    if (schema == kManifestSchema) {
      seen_schema_ = true;
      return {};
    }
    return Bad(fmt::format("has the schema '{}', '{}' is expected",
                           CutMiddle(ToPrintable(schema), 80), kManifestSchema));
  }

  Result<std::string> Text(od::value value, std::string_view what) {
    std::string_view text;
    if (auto code = value.get_string().get(text)) {
      if (code != simdjson::INCORRECT_TYPE) return BadJson(code);
      return Bad(fmt::format("has a '{}' that is no text", what));
    }
    return std::string(text);
  }

  Status TakeNotHeld(od::value value) {
    if (!manifest_.not_held.empty()) return Bad("has 'not_held' twice");
    od::array array;
    if (value.get_array().get(array)) return Bad("has 'not_held' that is no list");
    for (auto element : array) {
      od::object object;
      if (std::move(element).get_object().get(object)) return Bad("has 'not_held' without objects");
      ManifestGap gap;
      for (auto member : object) {
        od::field field;
        if (auto code = std::move(member).get(field)) return BadJson(code);
        std::string_view key;
        if (auto code = field.unescaped_key().get(key)) return BadJson(code);
        if (key == "pattern") {
          WB_TRY(gap.pattern, Text(field.value(), "pattern"));
        } else if (key == "why") {
          WB_TRY(gap.why, Text(field.value(), "why"));
        }
      }
      if (gap.pattern.empty()) return Bad("has 'not_held' without a pattern");
      manifest_.not_held.push_back(std::move(gap));
      if (manifest_.not_held.size() > kMaxNotHeld)
        return Bad("has too many patterns in 'not_held'");
    }
    return {};
  }

  Status TakeTensors(od::value value) {
    if (std::exchange(seen_tensors_, true)) return Bad("has 'tensors' twice");
    od::array array;
    if (value.get_array().get(array)) return Bad("has 'tensors' that are no list");
    for (auto element : array) {
      od::value tensor;
      if (auto code = std::move(element).get(tensor)) return BadJson(code);
      WB_RETURN_IF_ERROR(TakeTensor(tensor));
    }
    return {};
  }

  Status TakeTensor(od::value value) {
    od::object object;
    if (value.get_object().get(object)) return Bad("lists a tensor that is no object");
    ManifestTensor tensor;
    EntryText first;
    bool has_shape = false;
    for (auto element : object) {
      od::field field;
      if (auto code = std::move(element).get(field)) return BadJson(code);
      std::string_view key;
      if (auto code = field.unescaped_key().get(key)) return BadJson(code);
      if (key == "name") {
        WB_TRY(tensor.name, Text(field.value(), "name"));
      } else if (key == "shape") {
        WB_RETURN_IF_ERROR(TakeShape(field.value(), tensor.shape));
        has_shape = true;
      } else if (key == "also") {
        WB_RETURN_IF_ERROR(TakeAlso(field.value(), tensor));
      } else if (key == "stored") {
        WB_RETURN_IF_ERROR(TakeStored(field.value(), tensor));
      } else {
        WB_RETURN_IF_ERROR(first.Take(*this, key, field.value()));
      }
    }
    if (tensor.name.empty()) return Bad("lists a tensor without a name");
    if (!has_shape) return Bad(fmt::format("gives no shape of '{}'", ToPrintable(tensor.name)));
    WB_TRY(const ManifestEntry entry, ToEntry(first));
    tensor.entries.insert(tensor.entries.begin(), entry);
    for (const ManifestEntry& e : tensor.entries) {
      WB_RETURN_IF_ERROR(CheckShape(tensor.name, tensor.shape, e.dtype));
    }
    manifest_.tensors.push_back(std::move(tensor));
    return {};
  }

  Status CheckShape(const std::string& name, const Shape& shape, DType dtype) const {
    const auto numel = CheckedNumel(shape);
    if (numel && BytesFor(dtype, *numel)) return {};
    return Bad(fmt::format("gives '{}' the shape {}, which no tensor of {} has", ToPrintable(name),
                           ToString(shape), ShortName(dtype)));
  }

  // The two fields of an entry, as they stand in the document.
  struct EntryText {
    std::string dtype, xxh3;

    Status Take(Parser& parser, std::string_view key, od::value value) {
      if (key == "dtype") {
        WB_TRY(dtype, parser.Text(value, "dtype"));
      } else if (key == "xxh3") {
        WB_TRY(xxh3, parser.Text(value, "xxh3"));
      }
      return {};
    }
  };

  Result<ManifestEntry> ToEntry(const EntryText& text) const {
    const auto dtype = ParseShortName(text.dtype);
    if (!dtype) {
      return Bad(
          fmt::format("has the dtype '{}', which is none", CutMiddle(ToPrintable(text.dtype), 40)));
    }
    const auto xxh3 = Xxh3Digest::Parse(text.xxh3);
    if (!xxh3) {
      return Bad(fmt::format("has the hash '{}', 32 lower-case hex digits are expected",
                             CutMiddle(ToPrintable(text.xxh3), 40)));
    }
    return ManifestEntry{*dtype, *xxh3};
  }

  Status TakeAlso(od::value value, ManifestTensor& tensor) {
    od::array array;
    if (value.get_array().get(array)) return Bad("has 'also' that is no list");
    for (auto element : array) {
      od::object object;
      if (std::move(element).get_object().get(object)) return Bad("has 'also' without objects");
      EntryText text;
      for (auto member : object) {
        od::field field;
        if (auto code = std::move(member).get(field)) return BadJson(code);
        std::string_view key;
        if (auto code = field.unescaped_key().get(key)) return BadJson(code);
        WB_RETURN_IF_ERROR(text.Take(*this, key, field.value()));
      }
      WB_TRY(const ManifestEntry entry, ToEntry(text));
      tensor.entries.push_back(entry);
      if (tensor.entries.size() > AllDTypes().size())
        return Bad("has too many entries of a tensor");
    }
    return {};
  }

  // What a quantized weight is made of.
  Status TakeStored(od::value value, ManifestTensor& tensor) {
    if (!tensor.stored.empty()) return Bad("has 'stored' of a tensor twice");
    od::object object;
    if (value.get_object().get(object)) return Bad("has 'stored' that is no object");
    for (auto element : object) {
      od::field field;
      if (auto code = std::move(element).get(field)) return BadJson(code);
      std::string_view key;
      if (auto code = field.unescaped_key().get(key)) return BadJson(code);
      if (key == "scheme") {
        WB_TRY(tensor.scheme, Text(field.value(), "scheme"));
      } else if (key == "tensors") {
        WB_RETURN_IF_ERROR(TakeStoredTensors(field.value(), tensor.stored));
      }
    }
    if (tensor.scheme.empty() || tensor.stored.empty()) {
      return Bad("has 'stored' without a scheme or without tensors");
    }
    return {};
  }

  Status TakeStoredTensors(od::value value, std::vector<ManifestStored>& stored) {
    od::array array;
    if (value.get_array().get(array)) return Bad("has 'tensors' of 'stored' that are no list");
    for (auto element : array) {
      od::object object;
      if (std::move(element).get_object().get(object)) {
        return Bad("has 'stored' with a tensor that is no object");
      }
      ManifestStored part;
      EntryText text;
      for (auto member : object) {
        od::field field;
        if (auto code = std::move(member).get(field)) return BadJson(code);
        std::string_view key;
        if (auto code = field.unescaped_key().get(key)) return BadJson(code);
        if (key == "name") {
          WB_TRY(part.name, Text(field.value(), "name"));
        } else if (key == "shape") {
          WB_RETURN_IF_ERROR(TakeShape(field.value(), part.shape));
        } else {
          WB_RETURN_IF_ERROR(text.Take(*this, key, field.value()));
        }
      }
      if (part.name.empty()) return Bad("has 'stored' with a tensor without a name");
      WB_TRY(const ManifestEntry entry, ToEntry(text));
      WB_RETURN_IF_ERROR(CheckShape(part.name, part.shape, entry.dtype));
      part.dtype = entry.dtype;
      part.xxh3 = entry.xxh3;
      stored.push_back(std::move(part));
      if (stored.size() > kMaxStored) return Bad("has too many 'stored' tensors of a weight");
    }
    return {};
  }

  Status TakeShape(od::value value, Shape& shape) {
    if (!shape.empty()) return Bad("gives a tensor two shapes");
    od::array array;
    if (value.get_array().get(array)) return Bad("has a 'shape' that is no list");
    for (auto element : array) {
      int64_t extent;
      if (std::move(element).get_int64().get(extent) || extent < 0) {
        return Bad("has a shape with an extent that is no number of elements");
      }
      shape.push_back(extent);
      if (shape.size() > kMaxAxes) return Bad(fmt::format("has a shape of over {} axes", kMaxAxes));
    }
    return {};
  }

  Status Sort() {
    auto& tensors = manifest_.tensors;
    const auto by_name = [](const auto& a, const auto& b) { return a.name < b.name; };
    if (!std::is_sorted(tensors.begin(), tensors.end(), by_name)) {
      std::sort(tensors.begin(), tensors.end(), by_name);
    }
    const auto twice =
        std::adjacent_find(tensors.begin(), tensors.end(),
                           [](const auto& a, const auto& b) { return a.name == b.name; });
    if (twice == tensors.end()) return {};
    return Bad(fmt::format("lists '{}' twice", ToPrintable(twice->name)));
  }

  std::string At() const {
    const char* location = nullptr;
    if (document_ == nullptr || document_->current_location().get(location)) return name_;
    const auto offset = location - input_.view().data();
    const bool inside = offset >= 0 && static_cast<size_t>(offset) <= input_.view().length();
    return inside ? fmt::format("{}:{}", name_, offset) : name_;
  }
  tl::unexpected<Error> Bad(const std::string& problem) const {
    return Fail(ErrorKind::kInvalid, "manifest-invalid", "the manifest " + problem, At(),
                "give a file that `weighbridge manifest` wrote");
  }
  tl::unexpected<Error> BadJson(simdjson::error_code code) const {
    return Bad("is not valid: " + DescribeJsonError(code));
  }

  const std::string& name_;
  JsonInput input_;
  od::parser parser_;
  od::document* document_ = nullptr;
  bool seen_schema_ = false, seen_tensors_ = false;
  Manifest manifest_;
};

}  // namespace

Result<Manifest> ParseManifest(std::span<const std::byte> text, std::span<const std::byte> mapping,
                               const std::string& name) {
  return Parser(text, mapping, name).Run();
}

Result<Manifest> ReadManifest(const std::filesystem::path& path) {
  WB_TRY(const auto file, MappedFile::Open(path));
  if (file->size() > kMaxManifestBytes) {
    return Fail(ErrorKind::kUnsupported, "too-large",
                fmt::format("the manifest has {} bytes, more than the {} accepted here",
                            file->size(), kMaxManifestBytes),
                path.string());
  }
  if (file->bytes().empty()) {
    return Fail(ErrorKind::kInvalid, "manifest-invalid", "the manifest is empty", path.string(),
                "give a file that `weighbridge manifest` wrote");
  }
  return ParseManifest(file->bytes(), file->bytes(), path.string());
}

}  // namespace weighbridge
