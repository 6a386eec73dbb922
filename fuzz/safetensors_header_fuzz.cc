// A whole file: what is accepted must tile the data section, and the plan of a writer must give a
// header that says the same.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "formats/safetensors/header.h"
#include "formats/safetensors/writer.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckRewritten(const weighbridge::SafetensorsHeader& header) {
  const auto plan = weighbridge::PlanSafetensors(
      header.tensors, {.max_shard_bytes = UINT64_MAX, .metadata = header.metadata});
  Require(plan && plan->files.size() == 1);
  std::vector<std::byte> file(plan->files[0].nbytes);
  const auto text = std::as_bytes(std::span(plan->files[0].header));
  std::copy(text.begin(), text.end(), file.begin());
  const auto again = weighbridge::ParseSafetensorsHeader(file, "rewritten");
  Require(again && again->tensors.size() == header.tensors.size());
  Require(again->metadata == header.metadata);
  for (size_t i = 0; i < header.tensors.size(); ++i) {
    Require(again->tensors[i].name == header.tensors[i].name);
    Require(again->tensors[i].dtype == header.tensors[i].dtype);
    Require(again->tensors[i].shape == header.tensors[i].shape);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto header = weighbridge::ParseSafetensorsHeader(bytes, "fuzz");
  if (!header) {
    Require(header.error().kind == weighbridge::ErrorKind::kCorrupt);
    return 0;
  }
  uint64_t total = header->data_start();
  for (const auto& tensor : header->tensors) {
    Require(tensor.offset <= size && tensor.nbytes <= size - tensor.offset);
    total += tensor.nbytes;
  }
  Require(total == size);
  CheckRewritten(*header);
  return 0;
}
