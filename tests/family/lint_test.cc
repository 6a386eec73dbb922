// Lint: names that nothing has are found when the family is read, with the nearest name that
// exists.
#include "family/lint.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "sample_family.h"

namespace weighbridge {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Fault(const std::string& from, const std::string& to) {
  const Error error = ErrorOf(With(kSampleFamily, from, to));
  if (error.id != "accepted") {
    EXPECT_EQ(error.kind, ErrorKind::kInvalid);
    EXPECT_EQ(error.id, "family-file");
    EXPECT_THAT(error.at, HasSubstr("tiny.toml"));
  }
  return error.what;
}

TEST(Lint, NamesNearOnesForUnknownSymbolsAndTransforms) {
  EXPECT_EQ(Fault("\"2 * half\"", "\"2 * hlf\""), "'hlf' is no dim or flag; did you mean 'half'?");
  EXPECT_EQ(Fault("\"hidden / 2\"", "\"hiden / 2\""),
            "'hiden' is no dim or flag; did you mean 'hidden'?");
  EXPECT_EQ(Fault("transform = \"gated_mlp\"", "transform = \"gate_mlp\""),
            "there is no transform 'gate_mlp'; did you mean 'gated_mlp'?");
  EXPECT_EQ(Fault("\"2 * half\"", "\"2 * zzzzzzzzzzzz\""), "'zzzzzzzzzzzz' is no dim or flag");
}

TEST(Lint, ErrorsOfParametersHaveTheLineOfTheRule) {
  EXPECT_EQ(ErrorOf(With(kSampleFamily, "\"2 * half\"", "\"2 * hlf\"")).at, "tiny.toml:46");
}

TEST(Lint, NamesInsideOfBracesAreChecked) {
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"\"model.layers.{layer}.\"", "\"model.layers.{lyer}.\""},
           {"\"decoder.layers.{layer}.\"", "\"decoder.layers.{layerr}.\""},
           {"weight{expert}\"", "weight{exprt}\""},
           {"\"mlp.local_fc1.weight\"", "\"mlp.{local}_fc1.weight\""},
           {"\"experts.down\"", "\"experts.{down}\""},
           {"hf = \"inv_freq\"", "hf = \"{inv}_freq\""},
           {"when = \"tied\"", "when = \"ted\""},
           {"unless = \"tied\"", "unless = \"ted\""},
           {"experts = \"experts\"\n", "experts = \"xperts\"\n"},
           {"count = \"layers\"", "count = \"lyers\""}}) {
    EXPECT_THAT(Fault(from, to), HasSubstr("is no dim or flag")) << to;
  }
  EXPECT_THAT(Fault("\"model.layers.{layer}.\"", "\"model.layers.{layer.\""),
              HasSubstr("'}' is missing"));
}

TEST(Lint, ArithmeticIsJudgedOnlyWhereNoNameTakesPart) {
  EXPECT_THAT(Fault("\"hidden / 2\"", "\"7 / 2\""), HasSubstr("7 is not divisible by 2"));
  EXPECT_THAT(Fault("\"hidden / 2\"", "\"1 / 0\""), HasSubstr("division by"));
  EXPECT_THAT(Fault("\"hidden / 2\"", "\"99999999999999999999\""), HasSubstr("overflow"));
  EXPECT_EQ(Fault("\"hidden / 2\"", "\"hidden / 11\""), "accepted");
  EXPECT_EQ(Fault("\"hidden / 2\"", "\"hidden / (layers - vocab)\""), "accepted");
  EXPECT_EQ(Fault("\"hidden / 2\"", "\"hidden*hidden*hidden*hidden*hidden*hidden\""), "accepted");
  EXPECT_THAT(Fault("\"hidden / 2\"", "\"hidden /\""), HasSubstr("ends early"));
}

TEST(Lint, RequiredPiecesAreThere) {
  EXPECT_EQ(Fault(R"(half = { keys = ["half", "deep.half"], default = "hidden / 2" })",
                  R"(half = { agrees = "hidden / 2" })"),
            "'half' has no keys that could agree");
  EXPECT_THAT(Fault("hf_architectures = [\"TinyForCausalLM\"]\n", ""),
              HasSubstr("'hf_architectures' is empty"));
  EXPECT_THAT(Fault("vocab = \"vocab_size\"\n", ""), HasSubstr("[dims] lacks 'vocab'"));
  EXPECT_THAT(
      Fault("half = { keys = [\"half\", \"deep.half\"], default = \"hidden / 2\" }", "half = { }"),
      HasSubstr("'half' has neither keys nor a value"));
  EXPECT_THAT(Fault("[flags]\n", "[flags]\nhidden = \"x\"\n"),
              HasSubstr("'hidden' is a dim and a flag"));
  EXPECT_THAT(Fault("megatron = \"embedding.word_embeddings.weight\"\n", ""),
              HasSubstr("needs 'megatron'"));
  EXPECT_THAT(Fault("shape = [\"hidden\", \"half\"]\n", ""), HasSubstr("has no shape"));
  EXPECT_THAT(Fault("same_as = \"embed.weight\"\n", ""), HasSubstr("[tied] needs"));
  EXPECT_THAT(Fault("count = \"layers\"\n", ""), HasSubstr("needs name and count"));
}

TEST(Lint, QuantizationIsAKnownScheme) {
  const std::string line = "hf_architectures = [\"TinyForCausalLM\"]\n";
  EXPECT_EQ(Fault(line, line + "quantization = [\"fp8\", \"mxfp4\"]\n"), "accepted");
  EXPECT_THAT(Fault(line, line + "quantization = [\"fp9\"]\n"), HasSubstr("not 'fp9'"));
}

TEST(Lint, ParametersNameThingsThatExist) {
  EXPECT_EQ(
      Fault("stack = \"decoder\"\nlayers = \"dense\"", "stack = \"encoder\"\nlayers = \"dense\""),
      "there is no stack 'encoder'");
  EXPECT_EQ(Fault("layers = \"dense\"", "layers = \"danse\""), "no layer is of kind 'danse'");
  EXPECT_EQ(Fault("layers = \"dense\"", "layers = \"!danse\""), "no layer is of kind 'danse'");
  EXPECT_EQ(Fault("layers = \"dense\"", "layers = \"!moe\""), "accepted");
  EXPECT_THAT(Fault("tp = \"row\"", "tp = \"rows\""),
              HasSubstr("'tp' is replicated, column or row"));
  EXPECT_THAT(Fault("tp = \"row\"", "tp = \"row\"\ncomponents = [\"half\"]"),
              HasSubstr("need tp = \"column\""));
  EXPECT_THAT(Fault("tp = \"row\"", "op = \"add_two\""), HasSubstr("there is no op 'add_two'"));
  EXPECT_THAT(Fault("place = \"first\"", "place = \"middle\""), HasSubstr("'place'"));
  EXPECT_THAT(Fault("place = \"first\"\n", ""), HasSubstr("needs a stack or a place"));
  EXPECT_THAT(Fault("place = \"first\"", "place = \"first\"\nstack = \"decoder\""),
              HasSubstr("and not both"));
  EXPECT_THAT(Fault("hf = [\"gate.weight\", \"up.weight\"]", "hf = [\"gate.weight\"]"),
              HasSubstr("transform gated_mlp takes 2 HF tensors, 1 are named"));
  EXPECT_THAT(Fault("hf = \"norm.weight\"\n", ""), HasSubstr("takes 1 HF tensors, 0 are named"));
  EXPECT_THAT(Fault("transform = \"expert\"", "transform = { name = \"expert\", flipped = true }"),
              HasSubstr("transform expert has no option 'flipped'"));
  EXPECT_EQ(Fault("transform = \"expert\"", "transform = { name = \"expert\", transposed = true }"),
            "accepted");
  EXPECT_THAT(
      Fault("stack = \"decoder\"\nhf = \"inv_freq\"", "stack = \"encoder\"\nhf = \"inv_freq\""),
      HasSubstr("there is no stack 'encoder'"));
}

TEST(Lint, LayerRulesAndConfigFunctionsExist) {
  EXPECT_THAT(Fault("rule = \"every_n\"", "rule = \"every\""), HasSubstr("no rule 'every'"));
  EXPECT_THAT(Fault("hit = \"moe\"\n", ""), HasSubstr("rule every_n needs 'hit'"));
  EXPECT_THAT(Fault("n = 2\n", "n = 2\nm = 3\n"), HasSubstr("rule every_n has no 'm'"));
  EXPECT_THAT(Fault("n = 2\n", "n = \"tow\"\n"), HasSubstr("'tow' is no dim or flag"));
  EXPECT_THAT(Fault("{ dim = \"layers\" }", "{ hf = [\"x\"], fn = \"nott\" }"),
              HasSubstr("there is no function 'nott'"));
  EXPECT_THAT(Fault("{ dim = \"layers\" }", "{ layer_kind = \"mpl\" }"),
              HasSubstr("no layer kinds 'mpl'"));
  EXPECT_THAT(Fault("{ dim = \"layers\" }", "{ list = [ { dim = \"lay\" } ] }"),
              HasSubstr("'lay' is no dim or flag"));
}

TEST(Lint, TablesWithoutParametersAreCheckedToo) {
  const auto with = [](const std::string& more) { return ErrorOf(kSampleFamily + more).what; };
  EXPECT_THAT(with("[[hf_copy]]\nhf = \"x\"\nsame_as = \"embed.weight\"\n"),
              HasSubstr("[[hf_copy]] needs"));
  EXPECT_THAT(with("[[hf_copy]]\nstack = \"decodr\"\nhf = \"x\"\nsame_as = \"embed.weight\"\n"),
              HasSubstr("there is no stack 'decodr'"));
  EXPECT_EQ(with("[[hf_copy]]\nstack = \"decoder\"\nhf = \"x\"\nsame_as = \"embed.weight\"\n"),
            "accepted");
  EXPECT_THAT(with("[[hf_ignore]]\nwhy = \"x\"\n"), HasSubstr("[[hf_ignore]] needs"));
  EXPECT_THAT(with("[[megatron_ignore]]\nwhy = \"x\"\n"), HasSubstr("[[megatron_ignore]] needs"));
  EXPECT_THAT(with("[[megatron_ignore]]\nmegatron = \"x\"\nshape = [\"hdden\"]\n"),
              HasSubstr("did you mean 'hidden'?"));
  EXPECT_THAT(with("[[unsupported]]\nkeys = \"bias\"\n"), HasSubstr("needs 'keys' and 'why'"));
  EXPECT_THAT(with("[[unsupported]]\nkeys = \"bias\"\nvalues = 3\nwhy = \"x\"\n"),
              HasSubstr("'values' must be a list"));
  EXPECT_THAT(with("[[unsupported]]\nkeys = \"bias\"\nlayers = \"mo\"\nwhy = \"x\"\n"),
              HasSubstr("no layer is of kind 'mo'"));
  EXPECT_THAT(with("[[unsupported]]\nkeys = \"bias\"\nwhen = \"teid\"\nwhy = \"x\"\n"),
              HasSubstr("did you mean 'tied'?"));
  EXPECT_THAT(with("[[stack]]\nname = \"s\"\ncount = \"1\"\nparams_of = \"nobody\"\n"),
              HasSubstr("there is no stack 'nobody'"));
}

TEST(Lint, EveryBuiltInFamilyPasses) {
  const auto library = FamilyLibrary::BuiltIn();
  const auto all = library.All();
  ASSERT_TRUE(all) << all.error().what << " " << all.error().at;
  EXPECT_GE((*all)->size(), 14u);
  for (const auto& [name, spec] : **all) {
    EXPECT_TRUE(LintFamily(spec)) << name;
    // Found by its file's name, without reading the others.
    EXPECT_EQ(spec.origin, "families/" + name + ".toml");
  }
}

TEST(Lint, FindsDefaultsThatNoConfigCanCompute) {
  const auto with = [](const char* expression) {
    return Fault("\"2 * half\"", fmt::format("\"{}\"", expression));
  };
  EXPECT_THAT(with("hidden / 0"), HasSubstr("divides by zero"));
  EXPECT_THAT(with("hidden / (half - half)"), HasSubstr("divides by zero"));
  EXPECT_THAT(with("2 * half / (half - hidden)"), Not(HasSubstr("divides by zero")));
  EXPECT_THAT(Fault("\"hidden / 2\"", "\"2 * half\""), HasSubstr("is defined by itself"));
}

TEST(Lint, FindsDimsThatAreDefinedByEachOther) {
  EXPECT_EQ(Fault("[flags]\n",
                  "a = { keys = [\"a\"], default = \"b + 1\" }\n"
                  "b = { value = \"c\" }\n\n[flags]\nc = { value = \"a > 1\" }\n"),
            "[dims] 'a' is defined by itself: a -> b -> c -> a");
  EXPECT_EQ(Fault("[flags]\n", "a = { value = \"b\" }\nb = { value = \"half\" }\n\n[flags]\n"),
            "accepted");
}

TEST(Lint, FindsStacksWhoseLayersHaveOneName) {
  EXPECT_EQ(Fault("\"decoder.layers.{layer}.\"", "\"decoder.layers.\""),
            "[[stack]] 'decoder': 'decoder.layers.mlp.linear_fc1.weight' is the same name in every "
            "layer, 'megatron' lacks {layer}");
  const std::string hf =
      "[[stack]]\nname = \"s\"\nmegatron = \"s.{layer}.\"\nhf = \"s.{layers}.\"\n";
  EXPECT_EQ(ErrorOf(kSampleFamily + hf + "count = \"layers\"\n[[param]]\nstack = \"s\"\n" +
                    "megatron = \"x\"\nhf = \"x\"\nshape = [\"hidden\"]\n")
                .what,
            "[[stack]] 's': 's.{layers}.x' is the same name in every layer, 'hf' lacks {layer}");
  EXPECT_EQ(Fault("\"model.layers.{layer}.\"", "\"model.layers.{layers + layer}.\""), "accepted");
  EXPECT_THAT(ErrorOf(kSampleFamily + "[[stack]]\nname = \"s\"\ncount = \"2\"\n").what,
              HasSubstr("[[stack]] 's': '' is the same name in every layer"));
}

TEST(Lint, FindsStacksThatBorrowFromThemselves) {
  const auto stack = [](const std::string& name, const std::string& of) {
    return "[[stack]]\nname = \"" + name + "\"\nmegatron = \"" + name + ".{layer}.\"\nhf = \"" +
           name + ".{layer}.\"\ncount = \"2\"\nparams_of = \"" + of + "\"\n";
  };
  EXPECT_EQ(ErrorOf(kSampleFamily + stack("a", "b") + stack("b", "a")).what,
            "[[stack]] 'a' has its own parameters by 'params_of': a -> b -> a");
  EXPECT_EQ(ErrorOf(kSampleFamily + stack("a", "a")).what,
            "[[stack]] 'a' has its own parameters by 'params_of': a -> a");
  EXPECT_EQ(ErrorOf(kSampleFamily + stack("a", "decoder")).what, "accepted");
}

TEST(Lint, FindsExtentsAndPeriodsThatAreNeverPositive) {
  const std::string shape = "shape = [\"hidden\", \"half\"]";
  EXPECT_EQ(Fault(shape, "shape = [\"0-5\", \"half\"]"),
            "[[param]] 'mlp.experts.linear_fc2.weight{expert}': the extent '0-5' of its shape is "
            "never positive");
  EXPECT_THAT(Fault(shape, "shape = [0, \"half\"]"), HasSubstr("is never positive"));
  EXPECT_THAT(Fault(shape, "shape = [\"hidden - hidden\"]"), HasSubstr("is never positive"));
  EXPECT_THAT(Fault(shape, "shape = [\"0 - hidden * half\"]"), HasSubstr("is never positive"));
  EXPECT_EQ(Fault(shape, "shape = [\"hidden - 4096\"]"), "accepted");
  EXPECT_EQ(Fault(shape, "shape = [\"hidden - 2 * half - vocab\"]"), "accepted");
  EXPECT_EQ(Fault(shape, "shape = [\"hidden / half / layers\"]"), "accepted");
  EXPECT_EQ(Fault("n = 2\n", "n = 0\n"),
            "[layer_kinds.mlp]: rule every_n has n = 0, which is never positive");
  EXPECT_THAT(Fault("n = 2\n", "n = \"0 * layers\"\n"), HasSubstr("which is never positive"));
  EXPECT_EQ(Fault("n = 2\n", "n = \"layers\"\n"), "accepted");
}

TEST(Lint, FindsIgnoresOfWhatRulesRead) {
  const auto ignore = [](const std::string& name) {
    return ErrorOf(kSampleFamily + "[[hf_ignore]]\nhf = \"" + name + "\"\n").what;
  };
  EXPECT_EQ(ignore("model."),
            "[[hf_ignore]] 'model.' passes over 'model.layers.{layer}.gate.weight', which the rule "
            "of 'mlp.linear_fc1.weight' reads");
  EXPECT_THAT(ignore("norm.weight"), HasSubstr("passes over 'norm.weight'"));
  // Where the output layer is tied there is no rule for it.
  EXPECT_EQ(ignore("lm_head.weight"), "accepted");
  EXPECT_EQ(ignore("model.visual."), "accepted");
}

TEST(Lint, FindsRulesThatTheKindsOfAStackMakeDead) {
  const std::string stack =
      "[[stack]]\nname = \"mtp\"\nmegatron = \"mtp.{layer}.\"\nhf = \"mtp.{layer}.\"\ncount = 1\n"
      "kinds = { mlp = \"moe\" }\n";
  const auto rule = [](const std::string& layers) {
    return "[[param]]\nstack = \"mtp\"\nlayers = \"" + layers +
           "\"\nmegatron = \"x\"\nhf = \"x\"\nshape = [\"hidden\"]\n";
  };
  EXPECT_EQ(ErrorOf(kSampleFamily + stack + rule("dense")).what,
            "[[param]] 'x' is of no layer: by the kinds of [[stack]] 'mtp' none is dense");
  EXPECT_THAT(ErrorOf(kSampleFamily + stack + rule("!moe")).what, HasSubstr("none is !moe"));
  EXPECT_EQ(ErrorOf(kSampleFamily + stack + rule("moe")).what, "accepted");
  EXPECT_EQ(ErrorOf(kSampleFamily + stack + rule("!dense")).what, "accepted");
  EXPECT_EQ(ErrorOf(kSampleFamily + stack +
                    "[layer_kinds.mlp.stacks.mtp]\nrule = \"const\"\n"
                    "kind = \"dense\"\n")
                .what,
            "[layer_kinds.mlp.stacks.mtp] is never used: [[stack]] 'mtp' fixes that kind as 'moe'");
}

}  // namespace
}  // namespace weighbridge
