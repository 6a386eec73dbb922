// Other readings of the same stored codes: what converters have made of quantized weights that they
// did not dequantize as they are meant (docs/causes.md, "Values").
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/checkpoint.h"
#include "tensor/quantized.h"

namespace weighbridge {

struct CodeReading {
  std::string_view cause;
  std::string what;  // the same text for the same mistake in other tensors
  QuantizedTensor tensor;
};

// Those of a tensor's own codes and scales that can give other values, the plainest first.
std::vector<CodeReading> OwnReadings(const QuantizedTensor& q);

// Which tensors' scales a converter may have taken for another's: those of the same name in other
// layers or of other experts, and the others of the same layer and expert.
class ScaleDonors {
 public:
  // `hf` must outlive it.
  explicit ScaleDonors(const Checkpoint& hf);

  // The codes of `tensor`, a quantized one of `hf`, under the scales of each of them that fit.
  std::vector<CodeReading> ReadingsOf(const TensorInfo& tensor) const;

 private:
  const Checkpoint& hf_;
  // By what they have in common with others (KinshipsOf).
  std::unordered_map<std::string, std::vector<const TensorInfo*>> alike_;
};

}  // namespace weighbridge
