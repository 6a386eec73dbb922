// A safetensors file taken apart and put together by itself, without the reader that is under test.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace weighbridge {

std::string ReadFile(const std::filesystem::path& path);
void WriteFile(const std::filesystem::path& path, const std::string& bytes);
// Below `folder`, those whose name ends so; sorted, since a folder has its file system's order.
std::vector<std::filesystem::path> FilesWith(const std::filesystem::path& folder,
                                             std::string_view ending);

// 8 bytes with the header's length, the header, the data.
struct Shard {
  std::filesystem::path path;
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::string data;

  static Shard Load(const std::filesystem::path& path);
  void Save() const;
  std::vector<std::string> Names() const;
  std::string BytesOf(const std::string& name) const;
  // At the end of the data.
  void Add(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
           const std::string& bytes);
};

}  // namespace weighbridge
