// run_config.yaml: what PyYAML writes is read as PyYAML reads it, hostile text is refused, and what
// is written is read back as the same.
#include "formats/megatron_config/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "formats/megatron_config/yaml.h"

namespace weighbridge {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Field;
using testing::HasSubstr;
using testing::StartsWith;

json Parsed(const std::string& text) {
  const auto value = ParseYaml(text, "x.yaml");
  EXPECT_TRUE(value) << text << "\n" << (value ? "" : value.error().what);
  return value.value_or("error");
}

Error ErrorOf(const std::string& text) {
  const auto value = ParseYaml(text, "x.yaml");
  EXPECT_FALSE(value) << text.substr(0, 200);
  return value ? Error{} : value.error();
}

auto Broken(const std::string& what, const std::string& at) {
  return AllOf(Field(&Error::kind, ErrorKind::kCorrupt), Field(&Error::id, "header-corrupt"),
               Field(&Error::what, HasSubstr(what)), Field(&Error::at, StartsWith(at)));
}

// Values from yaml.safe_load of PyYAML 6 for the same text.
TEST(Yaml, ScalarsAreWhatPyYamlReads) {
  EXPECT_EQ(Parsed("[1, -3, +4, 0]"), json({1, -3, 4, 0}));
  EXPECT_EQ(Parsed("[1.0e-05, 2.5, -1.0, 1.0e+16]"), json({1e-5, 2.5, -1.0, 1e16}));
  EXPECT_EQ(Parsed("[null, ~, Null, ]"), json({nullptr, nullptr, nullptr}));
  EXPECT_EQ(Parsed("[true, yes, On, FALSE, no, off]"),
            json({true, true, true, false, false, false}));
  EXPECT_EQ(Parsed("['1', \"true\", 'null', '']"), json({"1", "true", "null", ""}));
  EXPECT_EQ(Parsed("[nanny, e, 1.2.3, 12a, -, .]"), json({"nanny", "e", "1.2.3", "12a", "-", "."}));
  EXPECT_EQ(Parsed("a: .inf"), (json{{"a", std::numeric_limits<double>::infinity()}}));
  EXPECT_TRUE(std::isnan(Parsed(".nan").get<double>()));
  EXPECT_EQ(Parsed("a:"), (json{{"a", nullptr}}));
  EXPECT_EQ(Parsed(""), json());
}

TEST(Yaml, NumbersTooLargeForAnInteger) {
  EXPECT_EQ(Parsed("9223372036854775807"), json(INT64_MAX));
  EXPECT_EQ(Parsed("92233720368547758070"), json(92233720368547758070.0));
  EXPECT_EQ(Parsed("1e999"), json("1e999"));
}

// YAML 1.1 wants a point; a file by hand means a number all the same.
TEST(Yaml, FloatWithoutAPointIsANumber) { EXPECT_EQ(Parsed("1e-5"), json(1e-5)); }

TEST(Yaml, TablesAndListsNest) {
  EXPECT_EQ(
      Parsed("model:\n  f:\n    _target_: a.b\n    _call_: false\n  l:\n  - 1\n  - [2, {x: 3}]\n"),
      json::parse(
          R"({"model": {"f": {"_target_": "a.b", "_call_": false}, "l": [1, [2, {"x": 3}]]}})"));
  EXPECT_EQ(Parsed("{1: a, true: b}"), json::parse(R"({"1": "a", "true": "b"})"));
}

TEST(Yaml, TheLastOfTwoEqualKeysCounts) { EXPECT_EQ(Parsed("{a: 1, a: 2}"), (json{{"a", 2}})); }

TEST(Yaml, OnlyTheFirstDocumentIsRead) {
  EXPECT_EQ(Parsed("---\na: 1\n---\nb: 2\n"), (json{{"a", 1}}));
}

TEST(Yaml, AliasesAreCopies) {
  EXPECT_EQ(Parsed("a: &x [1, 2]\nb: *x\nc: &y z\nd: *y"),
            json::parse(R"({"a": [1, 2], "b": [1, 2], "c": "z", "d": "z"})"));
  EXPECT_EQ(Parsed("a: &x 1\nb: &x 2\nc: *x"), json::parse(R"({"a": 1, "b": 2, "c": 2})"));
}

TEST(Yaml, TagsAreTextAndNothingRuns) {
  EXPECT_EQ(Parsed("!!python/object/apply:os.system ['false']"), json({"false"}));
  EXPECT_EQ(Parsed("a: !!python/name:os.system ''\nb: !!python/tuple [1, 2]\nc: !!int '3'"),
            json::parse(R"({"a": "", "b": [1, 2], "c": "3"})"));
}

TEST(Yaml, MergeKeysAreOrdinaryKeys) {
  EXPECT_EQ(Parsed("a: &x {k: 1}\nb:\n  <<: *x"),
            json::parse(R"({"a": {"k": 1}, "b": {"<<": {"k": 1}}})"));
}

TEST(Yaml, BillionLaughsAreRefused) {
  std::string text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 10; ++i) {
    text += fmt::format("a{0}: &a{0} [", i);
    for (int k = 0; k < 10; ++k) text += fmt::format("{}*a{}", k == 0 ? "" : ", ", i - 1);
    text += "]\n";
  }
  EXPECT_THAT(ErrorOf(text), Broken("stands for more than", "x.yaml:"));
}

TEST(Yaml, QuadraticBlowUpOfOneLongTextIsRefused) {
  std::string text = "a: &a " + std::string(100'000, 'x') + "\nb: [";
  for (int i = 0; i < 10'000; ++i) text += i == 0 ? "*a" : ", *a";
  EXPECT_THAT(ErrorOf(text + "]"), Broken("stands for more than", "x.yaml:2"));
}

TEST(Yaml, AnAliasInsideOfWhatItNamesIsRefused) {
  EXPECT_THAT(ErrorOf("a: &x [1, *x]"), Broken("inside of what it names", "x.yaml:1"));
  EXPECT_THAT(ErrorOf("&x {a: {b: *x}}"), Broken("inside of what it names", "x.yaml:1"));
}

TEST(Yaml, DepthIsBounded) {
  const auto nested = [](int n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_TRUE(Parsed(nested(kMaxYamlDepth)).is_array());
  EXPECT_THAT(ErrorOf(nested(kMaxYamlDepth + 1)), Broken("deeper", "x.yaml:1"));
  ErrorOf(nested(100'000));
  // Aliases add their own depth.
  std::string text = "a0: &a0 [1]\n";
  for (int i = 1; i < 2 * kMaxYamlDepth; ++i)
    text += fmt::format("a{0}: &a{0} [*a{1}]\n", i, i - 1);
  EXPECT_THAT(ErrorOf(text), Broken("deeper", "x.yaml:"));
}

TEST(Yaml, SizeIsBounded) {
  EXPECT_THAT(ErrorOf(std::string(kMaxYamlBytes + 1, '#')), Broken("at most", "x.yaml:1"));
  std::string many = "[";
  for (int64_t i = 0; i <= kMaxYamlNodes; ++i) many += "1,";
  EXPECT_THAT(ErrorOf(many + "1]"), Broken("stands for more than", "x.yaml"));
}

TEST(Yaml, WhatIsNoYamlIsAnErrorWithItsLine) {
  EXPECT_THAT(ErrorOf("a: 1\nb: [1, 2\n"), Broken("no valid YAML", "x.yaml:"));
  EXPECT_THAT(ErrorOf("a: 1\n b: 2\n"), Broken("no valid YAML", "x.yaml:2"));
  EXPECT_THAT(ErrorOf("a: *nothing"), Broken("no valid YAML", "x.yaml:1"));
  EXPECT_THAT(ErrorOf("{[1]: 2}"), Broken("a key is a list or a table", "x.yaml:1"));
  EXPECT_THAT(ErrorOf("a: 'x"), Broken("no valid YAML", "x.yaml:"));
  EXPECT_THAT(ErrorOf("\t\ta: 1"), Broken("", "x.yaml:"));
}

TEST(Yaml, BytesThatAreNoUtf8BecomeReplacementCharacters) {
  EXPECT_EQ(Parsed("a: \"x\xff\""), (json{{"a", "x\xef\xbf\xbd"}}));
}

RC_GTEST_PROP(Yaml, AnyBytesGiveAValueOrAnError, ()) {
  const auto text = *rc::gen::container<std::string>(rc::gen::oneOf(
      rc::gen::elementOf(std::string("[]{}:,-&*!|>'\"%@#\n ?ab1.\\")), rc::gen::arbitrary<char>()));
  const auto value = ParseYaml(text, "x.yaml");
  if (!value) RC_ASSERT(value.error().kind == ErrorKind::kCorrupt);
}

TEST(YamlText, IsReadBackAsTheSame) {
  const json value = json::parse(R"({
      "empty": {}, "none": null, "list": [1, [2, 3], "x"], "tables": [{"a": 1, "b": []}, {"c": {}}],
      "real": [1e-05, 1e16, 0.1, 3.0, -2.5e-300], "whole": [0, -7, 9223372036854775807],
      "text": ["", " ", "null", "No", "1", "1.5", "~", "a: b", "- x", "#c", "a#b", "'", "\"", "\\",
               "/a b/c", "\u0000\u001f\u007f\u0085\u2028", "Grüße", "\ud83d\ude00", "on", "=", "<<"],
      "yes": true, "key: with": {"\n": "x"}, "nested": {"deep": {"deeper": [[], [[]]]}}})");
  EXPECT_EQ(Parsed(DumpYaml(value)), value) << DumpYaml(value);
}

RC_GTEST_PROP(YamlText, AnyTextIsReadBackAsTheSame, (const std::string& text)) {
  const json value = {{"a", text}};
  const auto valid = json::parse(value.dump(-1, ' ', false, json::error_handler_t::replace));
  const auto read = ParseYaml(DumpYaml(value), "x.yaml");
  RC_ASSERT(read.has_value());
  RC_ASSERT((*read)["a"].is_string());
  RC_ASSERT((*read)["a"].get<std::string>().size() >= valid["a"].get<std::string>().size());
}

// PyYAML takes 1e-05 for text.
TEST(YamlText, RealNumbersHaveAPoint) {
  EXPECT_EQ(DumpYaml(1e-5), "1.0e-05\n");
  EXPECT_EQ(DumpYaml(10000.0), "10000.0\n");
  EXPECT_EQ(DumpYaml(std::numeric_limits<double>::infinity()), ".inf\n");
}

TEST(YamlText, LooksAsTheBridgeWritesIt) {
  EXPECT_EQ(DumpYaml(json::parse(R"({"model": {"_target_": "a.B", "f": {"_args_": [], "std": 0.02},
                                     "bf16": true, "id": "/a b", "z": null}})")),
            "model:\n  _target_: a.B\n  bf16: true\n  f:\n    _args_: []\n    std: 0.02\n"
            "  id: \"/a b\"\n  z: null\n");
}

TEST(RunConfigFile, GivesTheModelsFields) {
  const auto config = ParseRunConfig(
      "model:\n  _target_: a.b.GPTModelProvider\n  num_layers: 2\n  ffn_hidden_size: null\n"
      "  hf_model_id: org/name\n  new_field_of_2031: {x: 1}\nother: {}\n",
      "run_config.yaml");
  ASSERT_TRUE(config) << config.error().what;
  EXPECT_EQ(config->provider(), "a.b.GPTModelProvider");
  EXPECT_EQ(config->HfModel(), "org/name");
  EXPECT_EQ(config->Integer("num_layers").value(), 2);
  EXPECT_EQ(config->Integer("ffn_hidden_size").value(), std::nullopt);
  EXPECT_EQ(config->Integer("absent").value(), std::nullopt);
  EXPECT_EQ(config->model().size(), 5u);
}

TEST(RunConfigFile, RevisionBelongsToTheModel) {
  const auto config =
      ParseRunConfig("model: {hf_model_id: org/name, hf_model_revision: abc123}", "x");
  ASSERT_TRUE(config);
  EXPECT_EQ(config->HfModel(), "org/name@abc123");
}

TEST(RunConfigFile, WrongKindsAreErrors) {
  for (const char* text : {"[]", "3", "", "model: 3", "model:", "models: {}"}) {
    const auto config = ParseRunConfig(text, "run_config.yaml");
    ASSERT_FALSE(config) << text;
    EXPECT_THAT(config.error(), Broken("no table `model`", "run_config.yaml"));
  }
  const auto config = ParseRunConfig("model: {num_layers: four, hf_model_id: [1]}", "x.yaml");
  ASSERT_TRUE(config);
  EXPECT_THAT(config->Integer("num_layers").error(), Broken("num_layers is no integer", "x.yaml"));
  EXPECT_EQ(config->HfModel(), "");
}

TEST(RunConfigFile, AbsentIsNoError) {
  const auto config = ReadRunConfig("/nonexistent/run_config.yaml");
  ASSERT_TRUE(config);
  EXPECT_FALSE(config->has_value());
}

TEST(RunConfigFile, HugeIsRefusedWithoutBeingRead) {
  const auto path = std::filesystem::path(testing::TempDir()) / "huge_run_config.yaml";
  std::ofstream(path) << "model: {}\n";
  std::filesystem::resize_file(path, uint64_t{1} << 40);
  const auto config = ReadRunConfig(path);
  std::filesystem::remove(path);
  ASSERT_FALSE(config);
  EXPECT_THAT(config.error(), Broken("", path.string()));
}

}  // namespace
}  // namespace weighbridge
