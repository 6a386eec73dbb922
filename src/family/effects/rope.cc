#include "family/effects/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace weighbridge {

Frequencies PlainFrequencies(double base, int64_t channels) {
  Frequencies out;
  channels = std::clamp<int64_t>(channels, 0, kMaxRotatedChannels);
  for (int64_t i = 0; i < channels; i += 2) {
    out.push_back(std::pow(base, -static_cast<double>(i) / static_cast<double>(channels)));
  }
  return out;
}

Frequencies LinearFrequencies(double base, int64_t channels, double factor) {
  Frequencies out = PlainFrequencies(base, channels);
  for (double& f : out) f /= factor;
  return out;
}

Frequencies Llama3Frequencies(double base, int64_t channels, const Llama3Scaling& s) {
  Frequencies out = PlainFrequencies(base, channels);
  for (double& f : out) {
    const double wavelength = 2 * std::numbers::pi / f;
    const double turns = s.original_max_position_embeddings / wavelength;
    if (turns > s.high_freq_factor) continue;
    if (turns < s.low_freq_factor) {
      f /= s.factor;
      continue;
    }
    const double smooth = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
    f = (1 - smooth) * f / s.factor + smooth * f;
  }
  return out;
}

Frequencies YarnFrequencies(double base, int64_t channels, const YarnScaling& s) {
  Frequencies out = PlainFrequencies(base, channels);
  const auto dim = static_cast<double>(channels);
  const auto channel_of = [&](double rotations) {
    return dim * std::log(s.original_max_position_embeddings / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(base));
  };
  double low = channel_of(s.beta_fast), high = channel_of(s.beta_slow);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < out.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    out[i] = out[i] / s.factor * ramp + out[i] * (1 - ramp);
  }
  return out;
}

Frequencies LongRopeFrequencies(double base, int64_t channels, const std::vector<double>& factors) {
  Frequencies out = PlainFrequencies(base, channels);
  for (size_t i = 0; i < out.size() && i < factors.size(); ++i) out[i] /= factors[i];
  return out;
}

Frequencies ProportionalFrequencies(double base, int64_t channels, double share, double factor) {
  Frequencies out = LinearFrequencies(base, channels, factor);
  const auto angles =
      static_cast<size_t>(std::max(0.0, std::floor(share * static_cast<double>(channels) / 2)));
  for (size_t i = angles; i < out.size(); ++i) out[i] = 0;
  return out;
}

double YarnMscale(double factor, double m) {
  return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1.0;
}

}  // namespace weighbridge
