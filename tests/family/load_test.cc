// Family files: every key is checked, every error has a place, inheritance does what
// docs/families.md says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "sample_family.h"

namespace weighbridge {
namespace {

using testing::AllOf;
using testing::Field;
using testing::HasSubstr;

auto FileFault(const std::string& what, const std::string& at) {
  return AllOf(Field(&Error::kind, ErrorKind::kInvalid), Field(&Error::id, "family-file"),
               Field(&Error::what, HasSubstr(what)), Field(&Error::at, at));
}

TEST(FamilyFile, SampleIsGood) {
  const auto library = LibraryOf({{"tiny", kSampleFamily}});
  ASSERT_TRUE(library) << library.error().what << " " << library.error().at;
  EXPECT_EQ((*library->All())->size(), 1u);
}

TEST(FamilyFile, UnknownKeysHaveLineAndColumn) {
  const auto fault = [](const std::string& from, const std::string& to) {
    return ErrorOf(With(kSampleFamily, from, to));
  };
  EXPECT_THAT(fault("schema = 1", "schema = 1\ncolour = 3"),
              FileFault("unknown key 'colour'", "tiny.toml:2:10"));
  EXPECT_THAT(fault("n = 2\n", "n = 2\nmapp = { a = \"b\" }\n"),
              Field(&Error::what, HasSubstr("mapp")));
  EXPECT_THAT(fault("count = \"layers\"", "count = \"layers\"\nlayer = 3"),
              FileFault("unknown key 'layer'", "tiny.toml:31:9"));
  EXPECT_THAT(fault("place = \"first\"", "place = \"first\"\ntpp = \"row\""),
              FileFault("unknown key 'tpp'", "tiny.toml:45:7"));
  EXPECT_THAT(fault("transform = \"expert\"", "transform = \"expert\"\nshape = [\"1\"]"),
              FileFault("unknown key 'shape'", "tiny.toml:69:9"));
  EXPECT_THAT(fault("why = \"computed\"", "why = \"computed\"\nwhen = \"tied\""),
              Field(&Error::what, "unknown key 'when'"));
  EXPECT_THAT(fault("keys = [\"half\", \"deep.half\"]", "key = [\"half\"]"),
              Field(&Error::what, "unknown key 'key'"));
  EXPECT_THAT(fault("{ dim = \"layers\" }", "{ dim = \"layers\", fun = \"not\" }"),
              Field(&Error::what, "unknown key 'fun'"));
}

TEST(FamilyFile, WrongTypesHaveLineAndColumn) {
  const auto fault = [](const std::string& from, const std::string& to) {
    return ErrorOf(With(kSampleFamily, from, to));
  };
  EXPECT_THAT(fault("family = \"tiny\"", "family = 3"),
              FileFault("'family' must be a string", "tiny.toml:2:10"));
  EXPECT_THAT(fault("hf_model_types = [\"tiny\"]", "hf_model_types = [1]"),
              FileFault("must be a string or a list of strings", "tiny.toml:4:19"));
  EXPECT_THAT(fault("layers = \"num_hidden_layers\"", "layers = 3"),
              FileFault("'layers' must be a string or a table", "tiny.toml:7:10"));
  EXPECT_THAT(fault("default = \"hidden / 2\"", "default = [1]"),
              Field(&Error::what, HasSubstr("must be an expression")));
  EXPECT_THAT(fault("shape = [\"padded_vocab\", \"hidden\"]", "shape = [1.5]"),
              Field(&Error::what, HasSubstr("'shape'")));
  EXPECT_THAT(fault("place = \"first\"", "place = \"first\"\ndtype = \"fp31\""),
              Field(&Error::what, "unknown dtype"));
  EXPECT_THAT(fault("[tied]\n", "[[tied]]\n"),
              Field(&Error::what, HasSubstr("'tied' must be a table")));
  EXPECT_THAT(fault("[[stack]]", "[stack]"), Field(&Error::what, HasSubstr("written [[stack]]")));
  EXPECT_THAT(fault("[[param.alternative]]", "[param.alternative]"),
              Field(&Error::what, HasSubstr("written [[alternative]]")));
  EXPECT_THAT(ErrorOf("param = [1]\n" + kSampleFamily), Field(&Error::kind, ErrorKind::kInvalid));
  EXPECT_THAT(fault("schema = 1", "schema = 2"), FileFault("schema = 1", "tiny.toml:1:10"));
  EXPECT_THAT(fault("schema = 1\n", ""), Field(&Error::what, HasSubstr("schema = 1")));
  EXPECT_THAT(fault("family = \"tiny\"\n", ""), Field(&Error::what, "'family' is missing"));
}

TEST(FamilyFile, TextThatIsNoTomlHasLineAndColumn) {
  EXPECT_THAT(ErrorOf("schema = \n"), AllOf(Field(&Error::id, "family-file"),
                                            Field(&Error::at, HasSubstr("tiny.toml:1:"))));
  EXPECT_EQ(ErrorOf("a = 1\na = 2\n").id, "family-file");
  EXPECT_EQ(ErrorOf("\xFF\xFE\n").id, "family-file");
  EXPECT_EQ(ErrorOf("[" + std::string(100000, '[')).id, "family-file");
  EXPECT_EQ(ErrorOf("a = " + std::string(100000, '[')).id, "family-file");
  EXPECT_EQ(ErrorOf("").id, "family-file");
  // Text at which toml++ 3.3 by itself asserts or is undefined.
  for (const char* text :
       {"[!", "[!x]\n", "[[!", "[[!]]\n", "[ \n", "[[[", "a = [}", "[.", "[]\n", "[a.!]\n", "[ ",
        "[a.", "[\xC3\xA4]\n", "a = 1 \xC3\xA4\n", "[=]\n", "[#]\n", "[,"}) {
    EXPECT_EQ(ErrorOf(text).id, "family-file") << text;
  }
  EXPECT_EQ(ErrorOf(std::string(2u << 20, '\n')).what, "the family file is larger than 1 MiB");
}

TEST(FamilyFile, NestedRulesAreBounded) {
  std::string rule = "{ rule = \"const\", kind = \"dense\" }";
  std::string config = "{ const = 1 }";
  for (int i = 0; i < 20; ++i) {
    rule = "{ rule = \"from_list\", key = \"k\", fallback = " + rule + " }";
    config = "{ list = [ " + config + " ] }";
  }
  EXPECT_THAT(
      ErrorOf(With(kSampleFamily, "[config]", "[layer_kinds]\nother = " + rule + "\n[config]")),
      Field(&Error::kind, ErrorKind::kInvalid));
  EXPECT_THAT(ErrorOf(With(kSampleFamily, "share = { flag = \"tied\" }", "share = " + config)),
              Field(&Error::kind, ErrorKind::kInvalid));
}

TEST(FamilyFile, ConfigEntriesHaveExactlyOneSource) {
  for (const char* bad : {"{ }", "{ default = 1 }", "{ dim = \"layers\", flag = \"tied\" }",
                          "{ const = 1, hf = [\"a\"] }", "3", "{ list = 3 }", "{ rope = 1 }"}) {
    EXPECT_EQ(ErrorOf(With(kSampleFamily, "{ flag = \"tied\" }", bad)).id, "family-file") << bad;
  }
}

// -- extends --

constexpr char kChild[] =
    "schema = 1\nfamily = \"child\"\nhf_architectures = [\"ChildForCausalLM\"]\nextends = ";

std::string Base() { return With(kSampleFamily, "schema = 1", "schema = 1\nabstract = true"); }

Result<FamilyLibrary> WithChild(const std::string& extends, const std::string& rest = "") {
  return LibraryOf(
      {{"tiny", Base()},
       {"child", kChild + extends + "\n" + rest},
       {"part",
        "schema = 1\nfamily = \"part\"\nabstract = true\n[dims]\nhalf = { value = \"3\" }\n"
        "[flags]\nextra = { value = \"true\" }\n"}});
}

TEST(Extends, ChildHasWhatTheParentHasAndAbstractOnesAreNotListed) {
  for (const char* extends : {"\"tiny\"", "[\"tiny\"]"}) {
    const auto library = WithChild(extends);
    ASSERT_TRUE(library) << library.error().what;
    ASSERT_EQ((*library->All())->size(), 1u);
    const FamilySpec& child = **library->Find("child");
    EXPECT_EQ(child.params.size(), 5u);
    EXPECT_EQ(child.hf_architectures, std::vector<std::string>{"ChildForCausalLM"});
    EXPECT_TRUE(child.hf_model_types.empty());
    EXPECT_FALSE(child.abstract);
  }
}

TEST(Extends, ListIsAppliedInOrderThenTheFileItself) {
  const auto second = WithChild("[\"tiny\", \"part\"]");
  ASSERT_TRUE(second) << second.error().what;
  EXPECT_EQ((*second->Find("child"))->dims.at("half").expression, "3");
  const auto first = WithChild("[\"part\", \"tiny\"]");
  ASSERT_TRUE(first);
  EXPECT_EQ((*first->Find("child"))->dims.at("half").expression, "hidden / 2");
  const auto own = WithChild("[\"tiny\", \"part\"]", "[dims]\nhalf = { value = \"5\" }\n");
  ASSERT_TRUE(own);
  EXPECT_EQ((*own->Find("child"))->dims.at("half").expression, "5");
}

TEST(Extends, IsOneLevelOfFilesThatExist) {
  const auto fault = [](const Result<FamilyLibrary>& library) {
    return library ? std::string("accepted") : library.error().what;
  };
  EXPECT_THAT(fault(WithChild("\"nobody\"")), HasSubstr("extends 'nobody', which is not a family"));
  EXPECT_THAT(fault(WithChild("\"child\"")), HasSubstr("one level only"));
  EXPECT_THAT(fault(WithChild("3")), HasSubstr("'extends' must be a string"));
  EXPECT_THAT(fault(WithChild("[3]")), HasSubstr("'extends' must be a string"));
  const auto grandchild = LibraryOf(
      {{"tiny", Base()},
       {"child", std::string(kChild) + "\"tiny\"\n"},
       {"third",
        "schema = 1\nfamily = \"third\"\nhf_architectures = [\"X\"]\nextends = \"child\"\n"}});
  EXPECT_THAT(fault(grandchild), HasSubstr("itself extends 'tiny': one level only"));
}

TEST(Extends, RuleOfTheSameNameAndStackReplacesTheParents) {
  const auto library = WithChild("\"tiny\"", R"(
[[param]]
stack = "decoder"
layers = "dense"
megatron = "mlp.linear_fc1.weight"
hf = "fc1.weight"
shape = ["half", "hidden"]
)");
  ASSERT_TRUE(library) << library.error().what;
  const FamilySpec& child = **library->Find("child");
  ASSERT_EQ(child.params.size(), 5u);
  EXPECT_EQ(child.params[1].storage[0].names, std::vector<std::string>{"fc1.weight"});
  EXPECT_TRUE(child.params[1].components.empty());
  // Of another stack: a rule of its own.
  const auto other = WithChild("\"tiny\"", R"(
[[param]]
megatron = "mlp.linear_fc1.weight"
place = "last"
hf = "fc1.weight"
shape = ["half", "hidden"]
)");
  ASSERT_TRUE(other) << other.error().what;
  EXPECT_EQ((*other->Find("child"))->params.size(), 6u);
}

TEST(Extends, RemoveDropsByNameAndOnlyWhatIsThere) {
  const auto library = WithChild("\"tiny\"",
                                 "[remove]\nparams = [\"mlp.linear_fc1.weight\"]\nignores = "
                                 "[\"inv_freq\"]\nconfig = [\"share\"]\n");
  ASSERT_TRUE(library) << library.error().what;
  const FamilySpec& child = **library->Find("child");
  EXPECT_EQ(child.params.size(), 4u);
  EXPECT_TRUE(child.ignores.empty());
  EXPECT_FALSE(child.config.contains("share"));
  for (const char* list : {"params", "stacks", "ignores", "config"}) {
    const auto bad = WithChild("\"tiny\"", std::string("[remove]\n") + list + " = [\"zebra\"]\n");
    ASSERT_FALSE(bad) << list;
    EXPECT_THAT(bad.error().what, HasSubstr("names 'zebra', which the parent does not have"));
  }
  EXPECT_FALSE(WithChild("\"tiny\"", "[remove]\ncolours = [\"x\"]\n"));
  // A stack that parameters still name.
  EXPECT_FALSE(WithChild("\"tiny\"", "[remove]\nstacks = [\"decoder\"]\n"));
}

TEST(Extends, RenameChangesWhatTheParentsHfNamesBeginWith) {
  const auto library = WithChild("\"tiny\"", R"([rename]
"gate." = "mlp.gate."
"experts." = "moe."
"experts.down" = "moe.all"
"embed." = "wte."
)");
  ASSERT_TRUE(library) << library.error().what;
  const FamilySpec& child = **library->Find("child");
  const auto names = [&](size_t param, size_t storage) {
    return child.params[param].storage[storage].names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(names(0, 0), Names{"wte.weight"});
  EXPECT_EQ(names(1, 0), (Names{"mlp.gate.weight", "up.weight"}));
  EXPECT_EQ(names(2, 0), Names{"moe.{expert}.down.weight"});
  EXPECT_EQ(names(2, 1), Names{"moe.all"});  // the longest beginning
  EXPECT_EQ(child.tied->same_as, "wte.weight");
  const auto bad = WithChild("\"tiny\"", "[rename]\nzebra = \"x\"\n");
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().what, HasSubstr("no HF name of the parents begins 'zebra'"));
}

TEST(Extends, RestrictGivesTheParentsParametersAKindOfLayer) {
  const auto library = WithChild("\"tiny\"", "[restrict]\n\"mlp.\" = \"dense\"\n");
  ASSERT_TRUE(library) << library.error().what;
  for (const ParamRule& rule : (*library->Find("child"))->params) {
    if (!rule.megatron.starts_with("mlp.") || rule.stacks.empty()) continue;
    EXPECT_EQ(rule.layers.back(), "dense") << rule.megatron;
  }
  const auto bad = WithChild("\"tiny\"", "[restrict]\nzebra = \"dense\"\n");
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().what, HasSubstr("no Megatron name of the parents begins 'zebra'"));
}

TEST(FamilyLibrary, KeepsWhatItHadWhenAnAdditionFails) {
  auto library = LibraryOf({{"tiny", kSampleFamily}});
  ASSERT_TRUE(library);
  EXPECT_FALSE(library->Add({{"bad", "schema = 3"}}, ""));
  EXPECT_TRUE(library->Find("tiny"));
  EXPECT_TRUE(
      library->Add({{"second.toml", With(kSampleFamily, "\"tiny\"", "\"second\"")}}, "dir/"));
  EXPECT_EQ((*library->All())->size(), 2u);
}

TEST(FamilyLibrary, AddedFamilyComesBeforeABuiltInOneOfItsNameOrArchitecture) {
  FamilyLibrary library = FamilyLibrary::BuiltIn();
  const std::string mine =
      With(With(kSampleFamily, "\"tiny\"", "\"llama\""), "TinyForCausalLM", "LlamaForCausalLM");
  ASSERT_TRUE(library.Add({{"zz_mine.toml", mine}}, "dir/"));
  EXPECT_EQ((*library.Find("llama"))->origin, "dir/zz_mine.toml");
  EXPECT_EQ((*library.All())->at("llama").origin, "dir/zz_mine.toml");
  const auto config = nlohmann::json::parse(R"({"architectures": ["LlamaForCausalLM"]})");
  EXPECT_EQ((*library.ForConfig(config))->origin, "dir/zz_mine.toml");
  // The built-in one is still there to be extended, by its file's name.
  ASSERT_TRUE(
      library.Add({{"child",
                    "schema = 1\nfamily = \"child\"\nextends = [\"base_gpt\", \"base_gqa\"]\n"
                    "hf_architectures = [\"C\"]\n"}},
                  ""));
  EXPECT_TRUE(library.Find("child"));
}

TEST(FamilyLibrary, NamesNearOnesWhenAFamilyIsUnknown) {
  const FamilyLibrary library = FamilyLibrary::BuiltIn();
  const auto near = library.Find("lama");
  ASSERT_FALSE(near);
  EXPECT_EQ(near.error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(near.error().hint, "did you mean 'llama'?");
  EXPECT_FALSE(library.Find(""));
  EXPECT_FALSE(library.Find("base_gpt"));
}

TEST(FamilyLibrary, ArchitectureDecidesAndModelTypeOnlyWithoutOne) {
  const FamilyLibrary library = FamilyLibrary::BuiltIn();
  const auto found = [&](const char* json) {
    const auto spec = library.ForConfig(nlohmann::json::parse(json));
    return spec ? (*spec)->name : spec.error().id;
  };
  EXPECT_EQ(found(R"({"architectures": ["LlamaForCausalLM"], "model_type": "qwen2"})"), "llama");
  EXPECT_EQ(found(R"({"model_type": "qwen2"})"), "qwen2");
  EXPECT_EQ(found(R"({"architectures": [], "model_type": "qwen2"})"), "qwen2");
  EXPECT_EQ(found(R"({"architectures": ["NobodyForCausalLM"], "model_type": "qwen2"})"),
            "unknown-family");
  EXPECT_EQ(found(R"({"architectures": [3, null, ["LlamaForCausalLM"]]})"), "unknown-family");
  for (const char* config :
       {"{}", "[]", "null", "3", "\"llama\"", R"({"architectures": "LlamaForCausalLM"})",
        R"({"architectures": {"0": "LlamaForCausalLM"}})", R"({"model_type": 3})",
        R"({"model_type": ""})"}) {
    EXPECT_EQ(found(config), "unknown-family") << config;
  }
}

TEST(FamilyLibrary, AFileOfABuiltInNameThatDescribesAnotherFamilyHidesNothing) {
  FamilyLibrary library = FamilyLibrary::BuiltIn();
  ASSERT_TRUE(library.Add({{"llama.toml", kSampleFamily}}, "dir/"));
  ASSERT_TRUE(library.Find("llama"));
  EXPECT_EQ((*library.Find("llama"))->origin, "families/llama.toml");
  EXPECT_EQ((*library.Find("tiny"))->origin, "dir/llama.toml");
  const auto config = nlohmann::json::parse(R"({"architectures": ["LlamaForCausalLM"]})");
  EXPECT_EQ((*library.ForConfig(config))->name, "llama");
}

TEST(FamilyLibrary, BlamesTheFileThatReplacesABaseAndNotItsChildren) {
  FamilyLibrary library = FamilyLibrary::BuiltIn();
  const auto added = library.Add(
      {{"base_gpt.toml", "schema = 1\nfamily = \"base_gpt\"\nabstract = true\n"}}, "mine/");
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().at, "mine/base_gpt.toml");
  EXPECT_NE(added.error().what.find("can no longer be read"), std::string::npos);
}

}  // namespace
}  // namespace weighbridge
