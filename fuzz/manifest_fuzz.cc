#include <cstdint>
#include <span>
#include <string>

#include "formats/manifest/manifest.h"

// A manifest that can be read is written again, and what is written is the same manifest.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto manifest = weighbridge::ParseManifest(bytes, bytes, "manifest.json");
  if (!manifest) return manifest.error().what.empty() ? (__builtin_trap(), 0) : 0;
  std::string text;
  weighbridge::WriteManifest(*manifest, [&](std::string_view piece) { text += piece; });
  const auto written = std::as_bytes(std::span(text));
  const auto again = weighbridge::ParseManifest(written, written, "again.json");
  if (!again || *again != *manifest) __builtin_trap();
  return 0;
}
