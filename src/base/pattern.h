// Regular expressions as they stand in config files ("re:.*mlp\\.(gate|up)_proj.*"), matched as
// Python's re.match does: from the beginning, not to the end. The text may be hostile: time is
// linear in text times pattern, and nothing recurses over the text.
#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace weighbridge {

class Pattern {
 public:
  // Knows literals, `.`, `[a-z]`, `\d \w \s` and their opposites, groups, `|`, `*`, `+`, `?`, `^`
  // and
  // `$`. nullopt for anything else (look-around, counted repeats, back-references) and for what is
  // no expression.
  static std::optional<Pattern> Parse(std::string_view text);

  // What Python's re refuses for sure: an open group or class, a repeat of nothing, ranges that run
  // backwards. False for what is merely not known here.
  static bool IsBroken(std::string_view text);

  bool MatchesStart(std::string_view text) const;

 private:
  struct Step {
    enum class Kind : uint8_t { kByte, kFork, kBegin, kEnd, kAccept };
    Kind kind = Kind::kAccept;
    std::bitset<256> bytes;
    // Where it goes on, relative to itself; a fork goes both ways.
    std::ptrdiff_t next = 1, other = 1;
  };
  using Steps = std::vector<Step>;
  class Parser;

  Steps steps_;
};

}  // namespace weighbridge
