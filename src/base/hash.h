// XXH3-128, the one content hash of the project (xxHash's canonical form: big-endian, 32 hex
// digits).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace weighbridge {

// A hash where many are kept.
struct Xxh3Digest {
  uint64_t high = 0, low = 0;

  std::string Hex() const;  // 32 lower-case hex digits
  // nullopt when `hex` is anything but 32 lower-case hex digits.
  static std::optional<Xxh3Digest> Parse(std::string_view hex);
  bool operator==(const Xxh3Digest&) const = default;
};

// The hash of `bytes`: 32 lower-case hex digits, as `xxhsum -H2` prints them.
std::string Xxh3Hex(std::span<const std::byte> bytes);

// The same over pieces in order; any split of the same bytes gives the same digest. Not
// thread-safe.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(Xxh3Stream&&) noexcept;
  Xxh3Stream& operator=(Xxh3Stream&&) noexcept;

  void Update(std::span<const std::byte> bytes);
  // May be called at any time; more bytes may follow.
  Xxh3Digest Digest() const;
  std::string Hex() const { return Digest().Hex(); }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weighbridge
