#include "formats/safetensors/index.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "base/file.h"
#include "formats/safetensors/foreign.h"
#include "formats/safetensors/json_input.h"

namespace weighbridge {
namespace {

namespace od = simdjson::ondemand;

bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos &&
         name.find('\\') == name.npos && name.find('\0') == name.npos;
}

class IndexParser {
 public:
  IndexParser(std::span<const std::byte> text, std::span<const std::byte> mapping,
              const std::string& name, std::string_view suffix)
      : name_(name),
        suffix_(suffix),
        input_(text, mapping),
        parser_(std::make_shared<od::parser>()) {}

  Result<SafetensorsIndex> Parse() {
    od::document document;
    if (auto code = parser_->iterate(input_.view()).get(document)) return FailJson(code);
    document_ = &document;
    od::object root;
    if (document.get_object().get(root)) return FailIndex("is not a JSON object");
    for (auto element : root) {
      od::field field;
      if (auto code = std::move(element).get(field)) return FailJson(code);
      std::string_view key;
      if (auto code = field.unescaped_key().get(key)) return FailJson(code);
      if (key == "weight_map") {
        WB_RETURN_IF_ERROR(ParseWeightMap(field.value()));
      } else if (key == "metadata") {
        WB_RETURN_IF_ERROR(ParseMetadata(field.value()));
      }
    }
    if (!document.at_end()) return FailJson(simdjson::TRAILING_CONTENT);
    if (!seen_map_) return FailIndex("has no 'weight_map'");
    if (index_.entries.empty()) return FailIndex("has an empty 'weight_map'");
    SortShards();
    WB_RETURN_IF_ERROR(SortEntries());
    index_.storage = parser_;
    return std::move(index_);
  }

 private:
  Status ParseWeightMap(od::value value) {
    if (std::exchange(seen_map_, true)) return FailIndex("has 'weight_map' twice");
    od::object object;
    if (value.get_object().get(object))
      return FailIndex("has a 'weight_map' that is not an object");
    for (auto element : object) {
      od::field field;
      if (auto code = std::move(element).get(field)) return FailJson(code);
      SafetensorsIndex::Entry entry;
      std::string_view shard;
      if (auto code = field.unescaped_key().get(entry.tensor)) return FailJson(code);
      if (auto code = field.value().get_string().get(shard)) {
        if (code != simdjson::INCORRECT_TYPE) return FailJson(code);
        return FailIndex(fmt::format("maps '{}' to something that is not a string", entry.tensor));
      }
      WB_TRY(entry.shard, ShardNumber(entry.tensor, shard));
      index_.entries.push_back(entry);
    }
    return {};
  }

  Result<uint32_t> ShardNumber(std::string_view tensor, std::string_view shard) {
    const auto known = numbers_.find(shard);
    if (known != numbers_.end()) return known->second;
    if (!IsPlainFileName(shard)) {
      return FailIndex(fmt::format(
          "maps '{}' to '{}', which is not a plain file name inside of the folder", tensor, shard));
    }
    if (!shard.ends_with(suffix_)) {
      return Fail(ErrorKind::kUnsupported, "unsupported-format",
                  fmt::format("the index maps '{}' to '{}', which is not a {} file", tensor, shard,
                              suffix_),
                  At());
    }
    const auto number = static_cast<uint32_t>(index_.shards.size());
    index_.shards.emplace_back(shard);
    numbers_.emplace(shard, number);
    return number;
  }

  Status ParseMetadata(od::value value) {
    if (std::exchange(seen_metadata_, true)) return FailIndex("has 'metadata' twice");
    od::object object;
    if (value.get_object().get(object)) return FailIndex("has 'metadata' that is not an object");
    for (auto element : object) {
      od::field field;
      if (auto code = std::move(element).get(field)) return FailJson(code);
      std::string_view key;
      if (auto code = field.unescaped_key().get(key)) return FailJson(code);
      uint64_t total;
      if (key == "total_size" && field.value().get_uint64().get(total) == simdjson::SUCCESS) {
        index_.total_size = total;
      }
    }
    return {};
  }

  void SortShards() {
    std::vector<uint32_t> order(index_.shards.size()), rank(order.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return index_.shards[a] < index_.shards[b]; });
    for (uint32_t i = 0; i < order.size(); ++i) rank[order[i]] = i;
    std::sort(index_.shards.begin(), index_.shards.end());
    for (auto& entry : index_.entries) entry.shard = rank[entry.shard];
  }

  Status SortEntries() {
    auto& entries = index_.entries;
    std::sort(entries.begin(), entries.end(),
              [](const auto& a, const auto& b) { return a.tensor < b.tensor; });
    const auto twice =
        std::adjacent_find(entries.begin(), entries.end(),
                           [](const auto& a, const auto& b) { return a.tensor == b.tensor; });
    if (twice == entries.end()) return {};
    const auto& a = index_.shards[twice->shard];
    const auto& b = index_.shards[std::next(twice)->shard];
    return Corrupt(
        "duplicate-name",
        fmt::format("the index lists tensor '{}' twice: in {} and in {}", twice->tensor, a, b),
        At());
  }

  std::string At() const {
    const char* location = nullptr;
    if (document_ == nullptr || document_->current_location().get(location)) return name_;
    const auto offset = location - input_.view().data();
    const bool inside = offset >= 0 && static_cast<size_t>(offset) <= input_.view().length();
    return inside ? fmt::format("{}:{}", name_, offset) : name_;
  }
  tl::unexpected<Error> FailJson(simdjson::error_code code) const {
    return Corrupt("header-corrupt", "the index is not valid: " + DescribeJsonError(code), At());
  }
  tl::unexpected<Error> FailIndex(std::string_view problem) const {
    return Corrupt("header-corrupt", fmt::format("the index {}", problem), At());
  }

  const std::string& name_;
  std::string_view suffix_;
  JsonInput input_;
  std::shared_ptr<od::parser> parser_;  // owns the unescaped names
  od::document* document_ = nullptr;
  bool seen_map_ = false, seen_metadata_ = false;
  std::map<std::string, uint32_t, std::less<>> numbers_;
  SafetensorsIndex index_;
};

}  // namespace

Result<SafetensorsIndex> ParseSafetensorsIndex(std::span<const std::byte> text,
                                               std::span<const std::byte> mapping,
                                               const std::string& name, std::string_view suffix) {
  return IndexParser(text, mapping, name, suffix).Parse();
}

Result<SafetensorsIndex> ReadSafetensorsIndex(const std::filesystem::path& path,
                                              std::string_view suffix) {
  WB_TRY(const auto file, MappedFile::Open(path));
  const std::string name = path.string();
  if (file->bytes().empty()) {
    return Corrupt("file-truncated", "the index is empty", name, kFetchAgainHint);
  }
  const auto foreign = DescribeForeignFile(file->bytes());
  if (foreign && file->bytes()[0] != std::byte{'{'}) {
    return Corrupt(foreign->id, foreign->what, name + ":0", foreign->hint);
  }
  return ParseSafetensorsIndex(file->bytes(), file->bytes(), name, suffix);
}

}  // namespace weighbridge
