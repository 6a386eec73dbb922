#include "base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

namespace weighbridge {
namespace {

Xxh3Digest ToDigest(XXH128_hash_t hash) { return {hash.high64, hash.low64}; }

std::optional<uint64_t> ParseHex64(std::string_view hex) {
  uint64_t value = 0;
  for (char c : hex) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'a' || c > 'f')) return std::nullopt;
    value = value << 4 | static_cast<uint64_t>(digit ? c - '0' : c - 'a' + 10);
  }
  return value;
}

}  // namespace

std::string Xxh3Digest::Hex() const { return fmt::format("{:016x}{:016x}", high, low); }

std::optional<Xxh3Digest> Xxh3Digest::Parse(std::string_view hex) {
  if (hex.size() != 32) return std::nullopt;
  const auto high = ParseHex64(hex.substr(0, 16)), low = ParseHex64(hex.substr(16));
  if (!high || !low) return std::nullopt;
  return Xxh3Digest{*high, *low};
}

std::string Xxh3Hex(std::span<const std::byte> bytes) {
  return ToDigest(XXH3_128bits(bytes.data(), bytes.size())).Hex();
}

struct Xxh3Stream::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Xxh3Stream::Xxh3Stream() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->xxh); }
Xxh3Stream::~Xxh3Stream() = default;
Xxh3Stream::Xxh3Stream(Xxh3Stream&&) noexcept = default;
Xxh3Stream& Xxh3Stream::operator=(Xxh3Stream&&) noexcept = default;

void Xxh3Stream::Update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}

Xxh3Digest Xxh3Stream::Digest() const { return ToDigest(XXH3_128bits_digest(state_->xxh)); }

}  // namespace weighbridge
