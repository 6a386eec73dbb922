#include <cstdint>
#include <cstdlib>
#include <vector>

#include "formats/safetensors/index.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto index = weighbridge::ParseSafetensorsIndex(bytes, bytes, "fuzz");
  if (!index) return 0;
  for (size_t i = 0; i < index->entries.size(); ++i) {
    if (index->entries[i].shard >= index->shards.size()) std::abort();
    if (i > 0 && !(index->entries[i - 1].tensor < index->entries[i].tensor)) std::abort();
  }
  for (const std::string& shard : index->shards) {
    if (shard.find('/') != shard.npos || shard == "..") std::abort();
  }
  return 0;
}
