#include "base/journal.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/atomic_output.h"
#include "base/file.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxEntryBytes = 64u << 10;
constexpr char kEnding[] = ".json";

bool StaysBelow(const fs::path& name) {
  return name.has_filename() && name.is_relative() && name == name.lexically_normal() &&
         *name.begin() != ".." && name != ".";
}

std::string EntryName(std::string name) {
  std::replace(name.begin(), name.end(), '/', ':');
  return name + kEnding;
}

}  // namespace

std::string FinishedFileText(const FinishedFile& file) {
  return nlohmann::json{{"name", file.name}, {"bytes", file.nbytes}, {"crc32", file.crc}}.dump();
}

Result<FinishedFile> ParseFinishedFile(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto has = [&](const char* key) {
    return json.contains(key) && json[key].is_number_unsigned();
  };
  if (json.is_object() && json.contains("name") && json["name"].is_string() && has("bytes") &&
      has("crc32") && json["crc32"].get<uint64_t>() <= UINT32_MAX) {
    FinishedFile file{json["name"], json["bytes"], json["crc32"]};
    if (StaysBelow(file.name)) return file;
  }
  return Fail(ErrorKind::kInvalid, "journal", "this is no journal's entry");
}

Status Journal::Add(const FinishedFile& file) const {
  return ReplaceFile(folder_ / EntryName(file.name), FinishedFileText(file), Durability::kSynced);
}

std::vector<FinishedFile> Journal::Read() const {
  std::vector<FinishedFile> files;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const std::string entry = it->path().filename().string();
    if (!entry.ends_with(kEnding)) continue;
    const auto text = ReadTextFile(it->path(), kMaxEntryBytes);
    if (!text) continue;
    auto file = ParseFinishedFile(*text);
    if (file && EntryName(file->name) == entry) files.push_back(*std::move(file));
  }
  std::sort(files.begin(), files.end(),
            [](const FinishedFile& a, const FinishedFile& b) { return a.name < b.name; });
  return files;
}

void Journal::Remove(const std::string& name) const {
  std::error_code ignored;
  fs::remove(folder_ / EntryName(name), ignored);
}

}  // namespace weighbridge
