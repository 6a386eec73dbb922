#include "base/strings.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

namespace weighbridge {
namespace {

const std::vector<std::string> kCommands = {"roundtrip", "diff", "inspect", "toy", "families"};

TEST(NearestName, FindsTheNameThatWasProbablyMeant) {
  EXPECT_EQ(NearestName("rountrip", kCommands), "roundtrip");
  EXPECT_EQ(NearestName("dfif", kCommands), "diff");
  EXPECT_EQ(NearestName("INSPECT", kCommands), "inspect");
  EXPECT_EQ(NearestName("fam", kCommands), "families");
  EXPECT_EQ(DidYouMean("tyo", kCommands), "did you mean 'toy'?");
}

TEST(NearestName, SuggestsNothingForANameThatIsFar) {
  EXPECT_EQ(NearestName("generate", kCommands), "");
  EXPECT_EQ(NearestName("", kCommands), "");
  EXPECT_EQ(NearestName("xyz", kCommands), "");
  EXPECT_EQ(NearestName(std::string(100000, 'a'), kCommands), "");
  EXPECT_EQ(DidYouMean("generate", kCommands), "");
}

RC_GTEST_PROP(NearestName, OneDroppedLetterIsAlwaysNear, ()) {
  const auto& name =
      *rc::gen::elementOf(std::vector<std::string>{"roundtrip", "inspect", "families"});
  const auto at = *rc::gen::inRange<size_t>(0, name.size());
  std::string typed = name;
  typed.erase(at, 1);
  RC_ASSERT(NearestName(typed, kCommands) == name);
}

TEST(GlobMatch, StarStandsForAnyRunAndQuestionMarkForOne) {
  EXPECT_TRUE(GlobMatch("*.bias", "model.layers.0.bias"));
  EXPECT_TRUE(GlobMatch("model.*.q_proj.*", "model.layers.0.q_proj.weight"));
  EXPECT_TRUE(GlobMatch("a?c", "abc"));
  EXPECT_TRUE(GlobMatch("*", ""));
  EXPECT_TRUE(GlobMatch("", ""));
  EXPECT_FALSE(GlobMatch("", "a"));
  EXPECT_FALSE(GlobMatch("a?c", "ac"));
  EXPECT_FALSE(GlobMatch("*.bias", "model.bias.weight"));
  EXPECT_TRUE(GlobMatch("[a]", "[a]"));
}

TEST(GlobMatch, NeverTakesExponentialTime) {
  std::string pattern;
  for (int i = 0; i < 200; ++i) pattern += "a*";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(GlobMatch(pattern + "b", std::string(2000, 'a')));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

RC_GTEST_PROP(GlobMatch, EveryTextFitsItselfWithAnyPartStarred, (const std::string& text)) {
  const auto begin = *rc::gen::inRange<size_t>(0, text.size() + 1);
  const auto end = *rc::gen::inRange<size_t>(begin, text.size() + 1);
  RC_ASSERT(GlobMatch(text.substr(0, begin) + "*" + text.substr(end), text));
}

TEST(FormatBytes, WritesThreeDigitsInDecimalUnits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1500), "1.50 kB");
  EXPECT_EQ(FormatBytes(2'471'645'608), "2.47 GB");
  EXPECT_EQ(FormatBytes(999'999), "1.00 MB");
  EXPECT_EQ(FormatBytes(std::numeric_limits<uint64_t>::max()), "18.4 EB");
}

TEST(FormatDuration, ChoosesTheUnitThatPeopleRead) {
  EXPECT_EQ(FormatDuration(0), "0 s");
  EXPECT_EQ(FormatDuration(0.0004), "0.4 ms");
  EXPECT_EQ(FormatDuration(0.83), "0.83 s");
  EXPECT_EQ(FormatDuration(42.5), "42.5 s");
  EXPECT_EQ(FormatDuration(59.99), "1 min 0 s");
  EXPECT_EQ(FormatDuration(125), "2 min 5 s");
  EXPECT_EQ(FormatDuration(3780), "1 h 3 min");
  EXPECT_EQ(FormatDuration(std::nan("")), "unknown");
  EXPECT_EQ(FormatDuration(std::numeric_limits<double>::infinity()), "unknown");
  EXPECT_EQ(FormatDuration(-1), "unknown");
}

TEST(ToValidUtf8, KeepsValidTextAndReplacesTheRest) {
  EXPECT_EQ(ToValidUtf8("h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"),
            "h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(ToValidUtf8("\xff"), "\xef\xbf\xbd");
  EXPECT_EQ(ToValidUtf8("a\xc3"), "a\xef\xbf\xbd");
  EXPECT_EQ(ToValidUtf8("\xc0\xaf"), "\xef\xbf\xbd\xef\xbf\xbd");                  // overlong
  EXPECT_EQ(ToValidUtf8("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");  // surrogate
  EXPECT_EQ(ToValidUtf8("\xf4\x90\x80\x80").size(), 12u);                          // above U+10FFFF
}

TEST(ToPrintable, ShowsControlCharactersInsteadOfSendingThem) {
  EXPECT_EQ(ToPrintable("a\x1b[2Jb\nc\x7f"), "a\\x1b[2Jb\\nc\\x7f");
  EXPECT_EQ(ToPrintable("\xc2\x9b"), "\\u009b");
  EXPECT_EQ(ToPrintable("\xc3\xa9"), "\xc3\xa9");
}

TEST(CutMiddle, KeepsBothEndsAndTheWidth) {
  EXPECT_EQ(CutMiddle("short", 5), "short");
  EXPECT_EQ(CutMiddle("model.layers.0.weight", 13), "mo...0.weight");
  EXPECT_EQ(CutMiddle("abcdef", 2), "ab");
  EXPECT_EQ(CutMiddle("\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", 5),
            "...\xc3\xa9\xc3\xa9");
}

}  // namespace
}  // namespace weighbridge
