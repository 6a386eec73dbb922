// `verify CKPT MANIFEST`: a checkpoint against the hashes of another, which need not be at hand.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "checks/canonical.h"
#include "checks/result.h"
#include "formats/manifest/manifest.h"

namespace weighbridge {

struct VerifyManifestOptions {
  bool headers_only = false;  // --level L0: names, shapes, dtypes
  int threads = 1;
  std::function<void(uint64_t bytes)> progress;  // called from any thread
};

// One row per tensor of either side, by name: `hf` is what the manifest says, `megatron` what the
// checkpoint has. A tensor that is stored in another dtype than the manifest's is compared in one
// of the manifest's when its values fit it exactly: match-widened where it is stored wider. Causes:
//   tensor-missing, tensor-extra, shape-mismatch  (structural)
//   expert-order, layer-offset, stale  (exact)  its hash is that of another tensor of the manifest:
//       of another expert, another layer, else of another name
//   dtype-rounded  (structural)  it is stored in a dtype that does not hold the manifest's, and the
//       values differ; with headers_only, that dtype is enough
//   unexplained    every other hash that differs
// and those of the checkpoint itself. What the manifest says that it does not hold is no fault of a
// checkpoint that has it: a note and a line of what is unproven. The report is not concluded.
Result<Report> VerifyManifest(const CanonicalTensors& tensors, const Manifest& manifest,
                              const VerifyManifestOptions& options);

}  // namespace weighbridge
