#include "formats/safetensors/foreign.h"

#include <algorithm>
#include <cctype>
#include <string_view>

#include "formats/safetensors/header.h"

namespace weighbridge {
namespace {

struct Signature {
  std::string_view start;  // compared without regard to case
  const char* what;
  const char* hint;
};

constexpr Signature kSignatures[] = {
    {"version https://git-lfs.github.com/", "the file is a git-lfs pointer, not the weights",
     "run `git lfs pull` in the repository, or fetch it with `hf download`"},
    {"<!doctype html", "the file is an HTML page, not the weights",
     "the download saved an error or login page: fetch the file again"},
    {"<html", "the file is an HTML page, not the weights",
     "the download saved an error or login page: fetch the file again"},
    {"<?xml", "the file is an XML document, not the weights",
     "the download saved an error message: fetch the file again"},
    {"{\"", "the file is JSON text, not the weights",
     "an index or an error message was saved under this name: fetch the file again"},
    {"PK\x03\x04", "the file is a zip archive (a PyTorch .bin or .pt file), not safetensors",
     "rename it to what it is, or convert it with the `safetensors` library"},
    {"GGUF", "the file is in GGUF format, not safetensors", "GGUF files are not read"},
};

std::string_view Start(std::span<const std::byte> file) {
  return {reinterpret_cast<const char*>(file.data()), std::min<size_t>(file.size(), 64)};
}

bool StartsWithIgnoringCase(std::string_view text, std::string_view start) {
  return text.size() >= start.size() &&
         std::equal(start.begin(), start.end(), text.begin(), [](unsigned char a, unsigned char b) {
           return std::tolower(a) == std::tolower(b);
         });
}

}  // namespace

std::optional<ForeignFile> DescribeForeignFile(std::span<const std::byte> file) {
  if (file.empty()) return ForeignFile{"file-truncated", "the file is empty", kFetchAgainHint};
  // A header length may spell anything; what follows it then tells.
  if (LooksLikeSafetensors(file)) return std::nullopt;
  for (const Signature& signature : kSignatures) {
    if (StartsWithIgnoringCase(Start(file), signature.start)) {
      return ForeignFile{"header-corrupt", signature.what, signature.hint};
    }
  }
  return std::nullopt;
}

}  // namespace weighbridge
