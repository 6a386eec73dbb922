#include <cstdint>
#include <string>

#include "mapping/sharding.h"

// Bytes: pp, vpp, layers, MTP layers, flags, first stage, last stage, then the layout. What is
// placed holds every layer once, in order.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 7) return 0;
  weighbridge::ParallelGrid grid;
  grid.pp = data[0] % 18;
  grid.vpp = data[1] % 6;
  const int64_t layers = data[2], mtp = data[3] % 4;
  grid.account_for_embedding = (data[4] & 1) != 0;
  grid.account_for_loss = (data[4] & 2) != 0;
  if ((data[4] & 4) != 0) grid.first_stage_layers = static_cast<int64_t>(data[5]) - 1;
  if ((data[4] & 8) != 0) grid.last_stage_layers = static_cast<int64_t>(data[6]) - 1;
  grid.pp_layout.assign(reinterpret_cast<const char*>(data) + 7, size - 7);
  (void)weighbridge::ParsePipelineLayout(grid.pp_layout);
  const auto stages = weighbridge::PlaceLayers(grid, layers, mtp);
  if (!stages) return stages.error().what.empty() ? (__builtin_trap(), 0) : 0;
  int64_t next = 0, next_mtp = 0, embeddings = 0, outputs = 0;
  for (const weighbridge::Stage& stage : *stages) {
    for (int64_t layer : stage.decoder_layers) {
      if (layer != next++) __builtin_trap();
    }
    for (int64_t layer : stage.mtp_layers) {
      if (layer != next_mtp++) __builtin_trap();
    }
    embeddings += stage.has_embedding;
    outputs += stage.has_output;
  }
  if (next != layers || next_mtp != mtp || embeddings != 1 || outputs != 1) __builtin_trap();
  return 0;
}
