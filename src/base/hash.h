// XXH3-128, the one content hash of the project (xxHash's canonical form: big-endian, 32 hex
// digits).
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace weighbridge {

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
  std::string Hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weighbridge
