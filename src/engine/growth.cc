#include "engine/growth.h"

#include <algorithm>
#include <cmath>

namespace weighbridge {
namespace {

constexpr double kMuch = 4;  // a rise or fall by less is none

}  // namespace

Growth ReadGrowth(const std::vector<double>& differences) {
  std::vector<double> values;
  std::vector<size_t> places;
  for (size_t i = 0; i < differences.size(); ++i) {
    if (!(differences[i] > 0) || !std::isfinite(differences[i])) continue;
    values.push_back(differences[i]);
    places.push_back(i);
  }
  if (values.size() < 2) return {};
  size_t steepest = 1;
  for (size_t i = 1; i < values.size(); ++i) {
    if (values[i] / values[i - 1] > values[steepest] / values[steepest - 1]) steepest = i;
  }
  const double rise = values[steepest] / values[steepest - 1];
  const double whole = values.back() / values.front();
  const double after =
      *std::min_element(values.begin() + static_cast<std::ptrdiff_t>(steepest), values.end());
  if (rise >= kMuch && values[steepest] / after >= kMuch) {
    return {GrowthKind::kSpikes, places[steepest], rise};
  }
  // What the other layers add counts as well.
  if (rise >= kMuch && rise * rise >= whole) return {GrowthKind::kStep, places[steepest], rise};
  if (whole >= kMuch) return {GrowthKind::kCompounding, places.back(), whole};
  return {GrowthKind::kFlat, 0, whole};
}

}  // namespace weighbridge
