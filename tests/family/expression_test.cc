#include "family/expression.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>

namespace weighbridge {
namespace {

Result<int64_t> Value(std::string_view text) {
  return Evaluate(text, [](std::string_view name) -> Result<int64_t> {
    if (name == "a") return 6;
    if (name == "b") return -4;
    if (name == "orbit") return 100;
    if (name == "most") return INT64_MAX;
    if (name == "least") return INT64_MIN;
    return Fail(ErrorKind::kInvalid, "dim", fmt::format("no {}", name));
  });
}

int64_t Number(std::string_view text) {
  const auto value = Value(text);
  EXPECT_TRUE(value) << text << ": " << value.error().what;
  return value.value_or(-999999);
}

std::string Fault(std::string_view text) {
  const auto value = Value(text);
  EXPECT_FALSE(value) << text << " is " << *value;
  if (value) return "";
  EXPECT_EQ(value.error().kind, ErrorKind::kInvalid);
  return value.error().what;
}

TEST(Expression, ProductsBindStrongerThanSumsThanComparisonsThanNotThanAndThanOr) {
  EXPECT_EQ(Number("2 + 3 * 4"), 14);
  EXPECT_EQ(Number("(2 + 3) * 4"), 20);
  EXPECT_EQ(Number("2 + 3 < 3 * 2"), 1);
  EXPECT_EQ(Number("not 1 == 2"), 1);
  EXPECT_EQ(Number("not 1 and 0"), 0);
  EXPECT_EQ(Number("not (1 and 0)"), 1);
  EXPECT_EQ(Number("1 or 1 and 0"), 1);
  EXPECT_EQ(Number("(1 or 1) and 0"), 0);
  EXPECT_EQ(Number("not not 5"), 1);
}

TEST(Expression, OperatorsOfEqualRankGoFromLeftToRight) {
  EXPECT_EQ(Number("10 - 4 - 3"), 3);
  EXPECT_EQ(Number("24 / 4 / 2"), 3);
  EXPECT_EQ(Number("24 / 4 * 2"), 12);
  EXPECT_EQ(Number("17 % 10 * 2"), 14);
}

TEST(Expression, NamesNumbersAndTruthValues) {
  EXPECT_EQ(Number("a"), 6);
  EXPECT_EQ(Number("0"), 0);
  EXPECT_EQ(Number("007"), 7);
  EXPECT_EQ(Number("true + true"), 2);
  EXPECT_EQ(Number("false"), 0);
  EXPECT_EQ(Number("orbit"), 100);  // begins with a keyword
  EXPECT_EQ(Number("a==6 and b<0"), 1);
  EXPECT_EQ(Number("\t a\n+ 1 "), 7);
  EXPECT_EQ(Number("9223372036854775807"), INT64_MAX);
}

TEST(Expression, ComparisonsAreAllThere) {
  EXPECT_EQ(Number("(1 < 2) + (2 <= 2) + (3 > 2) + (2 >= 2) + (2 == 2) + (1 != 2)"), 6);
  EXPECT_EQ(Number("(2 < 1) + (3 <= 2) + (2 > 3) + (1 >= 2) + (1 == 2) + (2 != 2)"), 0);
}

TEST(Expression, DivisionMustBeExactAndByAPositiveNumber) {
  EXPECT_EQ(Number("a / 3"), 2);
  EXPECT_EQ(Number("b / 2"), -2);
  EXPECT_EQ(Fault("a / 4"), "6 is not divisible by 4");
  EXPECT_EQ(Fault("a / 0"), "division by a number that is not positive");
  EXPECT_EQ(Fault("a % 0"), "division by a number that is not positive");
  EXPECT_EQ(Fault("a / b"), "division by a number that is not positive");
  EXPECT_EQ(Fault("least / b"), "division by a number that is not positive");
  EXPECT_EQ(Fault("least / (0 - 1)"), "division by a number that is not positive");
}

TEST(Expression, OverflowIsAnError) {
  for (const char* text :
       {"most + 1", "least - 1", "most * 2", "least * (0 - 1)", "9223372036854775808",
        "99999999999999999999999999", "most - least", "most * most"}) {
    EXPECT_EQ(Fault(text), "integer overflow") << text;
  }
}

TEST(Expression, ErrorsNameTheColumn) {
  const auto at = [](std::string_view text) {
    const auto value = Value(text);
    return value ? "" : value.error().at;
  };
  EXPECT_EQ(at("a + "), "column 5 of 'a + '");
  EXPECT_EQ(at("a $ 2"), "column 3 of 'a $ 2'");
  EXPECT_EQ(at("(a"), "column 3 of '(a'");
  EXPECT_EQ(at("+1"), "column 1 of '+1'");
}

TEST(Expression, WhatIsNoExpressionIsRefused) {
  for (const char* text :
       {"",          " ",       "()",   "a b", "1 2",   "a +",    "* 2",      "(1",  "1)",  "1 <",
        "1 < 2 < 3", "a.b",     "{a}",  "-1",  "a = 1", "1 && 1", "1 || 1",   "!a",  "not", "a and",
        "or",        "3 not 4", "0x10", "1.5", "1e3",   "a(1)",   "\xC3\xA4", "\x01"}) {
    EXPECT_FALSE(Value(text)) << text;
  }
}

TEST(Expression, BytesOutsideOfAsciiDoNotBreakTheMessage) {
  const auto value = Value("a + \xFF");
  ASSERT_FALSE(value);
  EXPECT_THAT(value.error().what, testing::Not(testing::HasSubstr("\xFF")));
}

TEST(Expression, DepthAndLengthAreBounded) {
  const auto nested = [](int n) { return std::string(n, '(') + "1" + std::string(n, ')'); };
  EXPECT_EQ(Number(nested(60)), 1);
  EXPECT_EQ(Fault(nested(100)), "the expression is nested too deeply");
  EXPECT_EQ(Fault(nested(2000)), "the expression is nested too deeply");
  std::string nots;
  for (int i = 0; i < 900; ++i) nots += "not ";
  EXPECT_EQ(Fault(nots + "1"), "the expression is nested too deeply");
  EXPECT_EQ(Fault(std::string(5000, '1')), "the expression is longer than 4096 characters");
  std::string sum = "1";
  for (int i = 0; i < 1000; ++i) sum += " + 1";
  EXPECT_EQ(Number(sum), 1001);
}

TEST(Expression, ErrorsOfTheLookupComeThrough) { EXPECT_EQ(Fault("1 + zebra"), "no zebra"); }

// A random tree, written down and evaluated beside itself; nullopt where the language has an error.
struct Tree {
  std::string text;
  std::optional<int64_t> value;
};

Tree AnyTree(int depth) {
  if (depth == 0) {
    const auto n = *rc::gen::inRange<int64_t>(0, 12);
    return {fmt::format("{}", n), n};
  }
  const Tree left = AnyTree(depth - 1), right = AnyTree(depth - 1);
  const int op = *rc::gen::inRange(0, 8);
  static constexpr const char* kOps[] = {"+", "-", "*", "/", "%", "<", "and", "or"};
  Tree out{fmt::format("({}) {} ({})", left.text, kOps[op], right.text), std::nullopt};
  if (!left.value || !right.value) return out;
  const int64_t l = *left.value, r = *right.value;
  if (op == 0) out.value = l + r;
  if (op == 1) out.value = l - r;
  if (op == 2) out.value = l * r;
  if (op == 3 && r > 0 && l % r == 0) out.value = l / r;
  if (op == 4 && r > 0) out.value = l % r;
  if (op == 5) out.value = l < r;
  if (op == 6) out.value = l != 0 && r != 0;
  if (op == 7) out.value = l != 0 || r != 0;
  return out;
}

RC_GTEST_PROP(Expression, RandomTreesHaveTheValueOfTheirTree, ()) {
  const Tree tree = AnyTree(*rc::gen::inRange(0, 4));
  const auto value = Value(tree.text);
  RC_ASSERT(value.has_value() == tree.value.has_value());
  if (value) RC_ASSERT(*value == *tree.value);
}

RC_GTEST_PROP(Expression, AnyBytesGiveAValueOrAnError, ()) {
  const auto text = *rc::gen::container<std::string>(rc::gen::oneOf(
      rc::gen::elementOf(std::string("ab01+-*/%()<>=! ndortu")), rc::gen::arbitrary<char>()));
  const auto value = Value(text);
  if (!value) RC_ASSERT(!value.error().what.empty());
}

std::string Filled(std::string_view text) {
  const auto out = Substitute(text, [](std::string_view name) -> Result<int64_t> {
    if (name == "layer") return 7;
    return Fail(ErrorKind::kInvalid, "dim", fmt::format("no {}", name));
  });
  return out ? *out : "error: " + out.error().what;
}

TEST(Substitute, FillsEachBraceWithItsValue) {
  EXPECT_EQ(Filled("model.layers.{layer + 1}.x{layer}"), "model.layers.8.x7");
  EXPECT_EQ(Filled("none"), "none");
  EXPECT_EQ(Filled(""), "");
  EXPECT_EQ(Filled("a}b"), "a}b");
}

TEST(Substitute, RefusesBracesThatAreNotExpressions) {
  EXPECT_EQ(Filled("x{layer"), "error: '}' is missing");
  EXPECT_EQ(Filled("x{}"), "error: the expression ends early");
  EXPECT_EQ(Filled("{{layer}}"), "error: unexpected '{'");
  EXPECT_EQ(Filled("{head}"), "error: no head");
}

}  // namespace
}  // namespace weighbridge
