// How the difference between two models grows from layer to layer.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace weighbridge {

enum class GrowthKind {
  kFlat,         // much the same after every layer
  kStep,         // one layer makes most of it, and it stays
  kCompounding,  // layer by layer a little more
  kSpikes,       // single layers make much of it, and later ones less again
};

struct Growth {
  GrowthKind kind = GrowthKind::kFlat;
  size_t at = 0;      // of kStep and kSpikes: the entry with the greatest rise
  double factor = 1;  // from the first to the last; of kStep and kSpikes: of that rise
};

// `differences`, each relative to its state's size; zeros and what is no number are passed over.
Growth ReadGrowth(const std::vector<double>& differences);

}  // namespace weighbridge
