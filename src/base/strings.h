// Text helpers that every room may need: near names for messages, patterns, sizes for people, and
// text from files made safe to print. Pure functions; all may be called from any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace weighbridge {

// The candidate that `name` was probably meant to be: the smallest edit distance (insertion,
// deletion, substitution, swap of neighbours; letter case is ignored), at most a third of the
// longer length. A candidate that starts with `name`, or the reverse, is near as well. "" when
// nothing is near; the first of equals wins.
std::string NearestName(std::string_view name, std::span<const std::string> candidates);

// "did you mean 'NAME'?", or "" when nothing is near: the text for Error::hint.
std::string DidYouMean(std::string_view name, std::span<const std::string> candidates);

// True when the whole of `text` fits `pattern`: `*` stands for any run of characters, dots
// included,
// `?` for one; everything else for itself. Linear memory, never exponential time.
bool GlobMatch(std::string_view pattern, std::string_view text);

// Of ASCII, whatever the locale.
constexpr bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// "0 B", "999 B", "1.5 kB", "2.47 GB": decimal units, three digits.
std::string FormatBytes(uint64_t bytes);

// "0.4 ms", "0.83 s", "2 min 5 s", "1 h 3 min". Not finite or negative: "unknown".
std::string FormatDuration(double seconds);

// `text` with every byte that is not part of valid UTF-8 replaced by U+FFFD.
std::string ToValidUtf8(std::string_view text);

// ToValidUtf8, and control characters (names in files may hold terminal escapes) as `\n`, `\x1b`.
std::string ToPrintable(std::string_view text);

// Number of code points of valid UTF-8: the columns of a terminal, as long as nothing is wide.
size_t DisplayWidth(std::string_view text);

// `text` cut in the middle to at most `width` code points, "mod...rs.12.mlp.weight"; the end, which
// tells tensors apart, keeps all but three. `text` must be valid UTF-8.
std::string CutMiddle(std::string_view text, size_t width);

}  // namespace weighbridge
