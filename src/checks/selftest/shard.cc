#include "checks/selftest/shard.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>

namespace weighbridge {

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFile(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

Shard Shard::Load(const std::filesystem::path& path) {
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
