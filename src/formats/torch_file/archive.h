// The parts of an opened torch file that its tensors are looked up in. Private to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "formats/torch_file/torch_file.h"
#include "formats/torch_file/zip.h"

namespace weighbridge {

struct TorchArchive {
  std::span<const std::byte> bytes;
  std::string where;
  ZipArchive zip;
  std::string_view folder;  // "archive/", what all of torch's members begin with
  std::unordered_map<std::string_view, const ZipMember*> members;  // by name within `folder`
  std::optional<pickle::Document> document;

  const ZipMember* Find(std::string_view name) const {
    const auto found = members.find(name);
    return found == members.end() ? nullptr : found->second;
  }
  std::span<const std::byte> Content(const ZipMember& member) const {
    return bytes.subspan(member.offset, member.size);
  }
};

struct TorchFile::Rep : TorchArchive {};

}  // namespace weighbridge
