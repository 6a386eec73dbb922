#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "formats/manifest/manifest.h"

namespace weighbridge {
namespace {

std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string EntryText(const ManifestEntry& entry) {
  return fmt::format(R"("dtype": "{}", "xxh3": "{}")", ShortName(entry.dtype), entry.xxh3.Hex());
}

// Of the tensors that a quantized weight is made of.
std::string StoredText(const ManifestTensor& tensor) {
  std::string text =
      fmt::format(R"(, "stored": {{"scheme": {}, "tensors": [)", Quoted(tensor.scheme));
  for (size_t i = 0; i < tensor.stored.size(); ++i) {
    const ManifestStored& part = tensor.stored[i];
    text +=
        fmt::format(R"({}{{"name": {}, "shape": [{}], {}}})", i == 0 ? "" : ", ", Quoted(part.name),
                    fmt::join(part.shape, ", "), EntryText({part.dtype, part.xxh3}));
  }
  return text + "]}";
}

std::string TensorText(const ManifestTensor& tensor) {
  std::string text = fmt::format(R"({{"name": {}, "shape": [{}], {})", Quoted(tensor.name),
                                 fmt::join(tensor.shape, ", "), EntryText(tensor.entries.front()));
  for (size_t i = 1; i < tensor.entries.size(); ++i) {
    text +=
        fmt::format(R"({}{{{}}})", i == 1 ? R"(, "also": [)" : ", ", EntryText(tensor.entries[i]));
  }
  if (tensor.entries.size() > 1) text += "]";
  if (!tensor.stored.empty()) text += StoredText(tensor);
  return text + "}";
}

std::string NotHeldText(const std::vector<ManifestGap>& gaps) {
  std::string text;
  for (const ManifestGap& gap : gaps) {
    text += fmt::format(R"({}{{"pattern": {}, "why": {}}})", text.empty() ? "" : ",\n",
                        Quoted(gap.pattern), Quoted(gap.why));
  }
  return fmt::format("\"not_held\": [\n{}\n],\n", text);
}

}  // namespace

void WriteManifest(const Manifest& manifest, const std::function<void(std::string_view)>& sink) {
  sink(fmt::format("{{\n\"schema\": \"{}\",\n\"family\": {},\n", kManifestSchema,
                   Quoted(manifest.family)));
  if (!manifest.not_held.empty()) sink(NotHeldText(manifest.not_held));
  sink("\"tensors\": [");
  for (size_t i = 0; i < manifest.tensors.size(); ++i) {
    sink((i == 0 ? "\n" : ",\n") + TensorText(manifest.tensors[i]));
  }
  sink("\n]\n}\n");
}

}  // namespace weighbridge
