#include "checks/selftest/shard.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

namespace weighbridge {

namespace fs = std::filesystem;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFile(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

std::vector<fs::path> FilesWith(const fs::path& folder, std::string_view ending) {
  std::vector<fs::path> out;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (it->is_regular_file() && it->path().filename().string().ends_with(ending)) {
      out.push_back(it->path());
    }
  }
  std::sort(out.begin(), out.end());  // the order of a folder is the file system's
  return out;
}

Shard Shard::Load(const fs::path& path) {
  const std::string bytes = ReadFile(path);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  Shard shard;
  shard.path = path;
  shard.header = nlohmann::ordered_json::parse(bytes.substr(sizeof(length), length));
  shard.data = bytes.substr(sizeof(length) + length);
  return shard;
}

void Shard::Save() const {
  const std::string text = header.dump();
  const uint64_t length = text.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  WriteFile(path, bytes + text + data);
}

std::vector<std::string> Shard::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") names.push_back(name);
  }
  return names;
}

std::string Shard::BytesOf(const std::string& name) const {
  const auto& offsets = header.at(name).at("data_offsets");
  const auto begin = offsets[0].get<size_t>();
  return data.substr(begin, offsets[1].get<size_t>() - begin);
}

void Shard::Add(const std::string& name, const std::string& dtype,
                const std::vector<int64_t>& shape, const std::string& bytes) {
  header[name] = {{"dtype", dtype},
                  {"shape", shape},
                  {"data_offsets", {data.size(), data.size() + bytes.size()}}};
  data += bytes;
}

}  // namespace weighbridge
