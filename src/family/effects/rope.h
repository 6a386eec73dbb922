// Tables of inverse frequencies of rotary position embeddings, in double, as transformers'
// ROPE_INIT_FUNCTIONS (modeling_rope_utils.py of 5.17) and megatron-core 0.19 (RotaryEmbedding,
// YarnRotaryEmbedding) compute them. Pure formulas; what a config says is read by the sides.
#pragma once

#include <cstdint>
#include <vector>

namespace weighbridge {

// No real head is wider; a hostile config asks for more memory than a table is worth.
inline constexpr int64_t kMaxRotatedChannels = 1 << 16;

using Frequencies = std::vector<double>;  // one per pair of channels

struct Llama3Scaling {
  double factor = 8, low_freq_factor = 1, high_freq_factor = 4;
  double original_max_position_embeddings = 8192;
};

struct YarnScaling {
  double factor = 1, original_max_position_embeddings = 4096;
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;  // the correction range is rounded outwards to whole channels
};

// base^(-2i / channels) for i < ceil(channels / 2). `channels` within [0, kMaxRotatedChannels].
Frequencies PlainFrequencies(double base, int64_t channels);
// Positions divided by `factor`.
Frequencies LinearFrequencies(double base, int64_t channels, double factor);
Frequencies Llama3Frequencies(double base, int64_t channels, const Llama3Scaling& scaling);
Frequencies YarnFrequencies(double base, int64_t channels, const YarnScaling& scaling);
// Each frequency divided by its own factor; those beyond the list stay.
Frequencies LongRopeFrequencies(double base, int64_t channels, const std::vector<double>& factors);
// Gemma 4: the first `share` of the pairs rotates, with the exponents of the whole head; the others
// stand still.
Frequencies ProportionalFrequencies(double base, int64_t channels, double share, double factor);

// 0.1 m ln(factor) + 1; 1 for a factor of at most 1.
double YarnMscale(double factor, double m);

}  // namespace weighbridge
