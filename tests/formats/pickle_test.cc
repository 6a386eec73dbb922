// Pickles of tools/make_pickle_corpus.py: those that Python wrote, and hostile ones.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

#include "base/json.h"
#include "formats/pickle_json.h"
#include "support/temp_dir.h"
#include "support/visit_pickle.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using pickle::Document;
using pickle::Kind;
using testing::PickleJson;
using testing::ReadBytes;

const pickle::ReadOptions kTorch = {.allowed = pickle::TorchGlobals};

// An exact heap copy, so that AddressSanitizer sees every read past the end. It lives on, for the
// Document looks into it.
Result<Document> Read(const std::string& bytes, const pickle::ReadOptions& options = kTorch) {
  static std::vector<std::unique_ptr<std::vector<char>>> kept;
  kept.push_back(std::make_unique<std::vector<char>>(bytes.begin(), bytes.end()));
  return Document::Read(std::as_bytes(std::span(*kept.back())), "a.pkl", options);
}

class PickleCorpus : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    corpus_ = new testing::TempDir();
    const std::string command = fmt::format("python3 '{}/tools/make_pickle_corpus.py' '{}'",
                                            WEIGHBRIDGE_SOURCE_DIR, corpus_->path().string());
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  static void TearDownTestSuite() {
    delete corpus_;
    corpus_ = nullptr;
  }
  static nlohmann::json Expected(const std::string& name) {
    std::ifstream in(*corpus_ / (name + ".json"));
    return nlohmann::json::parse(in);
  }
  static testing::TempDir* corpus_;
};
testing::TempDir* PickleCorpus::corpus_ = nullptr;

TEST_F(PickleCorpus, EachPickleThatPythonWroteIsReadAsWhatItDescribes) {
  const auto expected = Expected("good");
  ASSERT_EQ(expected.size(), 16u * 6);
  for (const auto& [name, want] : expected.items()) {
    SCOPED_TRACE(name);
    const auto document = Read(ReadBytes(*corpus_ / ("good/" + name + ".pkl")));
    ASSERT_TRUE(document) << document.error().what << " at " << document.error().at;
    EXPECT_EQ(PickleJson::Of(document->root()), want);
  }
}

TEST_F(PickleCorpus, EachHostilePickleIsRefusedWithItsIdAndText) {
  const auto expected = Expected("bad");
  ASSERT_GE(expected.size(), 300u);
  for (const auto& [name, want] : expected.items()) {
    SCOPED_TRACE(name);
    const auto document = Read(ReadBytes(*corpus_ / ("bad/" + name + ".pkl")));
    if (document) {
      ADD_FAILURE() << "was accepted";
      continue;
    }
    const Error& error = document.error();
    EXPECT_EQ(error.kind, ErrorKind::kCorrupt);
    EXPECT_EQ(error.id, want["id"]) << error.what;
    EXPECT_NE(error.what.find(want["text"].get<std::string>()), std::string::npos) << error.what;
    EXPECT_TRUE(error.at.starts_with("a.pkl:")) << error.at;
    EXPECT_LT(error.what.size(), 400u);
    EXPECT_EQ(error.what.find('\x1b'), std::string::npos);
  }
}

TEST_F(PickleCorpus, NoHostilePickleIsReadByAnEmptyAllowListEither) {
  const auto expected = Expected("bad");
  for (const auto& [name, want] : expected.items()) {
    EXPECT_FALSE(Read(ReadBytes(*corpus_ / ("bad/" + name + ".pkl")), {})) << name;
  }
}

TEST_F(PickleCorpus, BombsAreReadInTimeThatFitsTheirSize) {
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(*corpus_ / "bombs")) {
    SCOPED_TRACE(entry.path().filename());
    const std::string bytes = ReadBytes(entry.path());
    const auto start = std::chrono::steady_clock::now();
    const auto document = Read(bytes);
    ASSERT_TRUE(document) << document.error().what;
    EXPECT_LE(testing::VisitAll(document->root()), bytes.size() + 300);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
    ++files;
  }
  EXPECT_EQ(files, 11u);
}

TEST(Pickle, RefusesMoreValuesThanTheOptionsAllow) {
  pickle::ReadOptions options = kTorch;
  options.max_nodes = 400;
  EXPECT_TRUE(Read("(" + std::string(100, ']') + "l.", options));
  const auto document = Read("(" + std::string(200, ']') + "l.", options);
  ASSERT_FALSE(document);
  EXPECT_EQ(document.error().id, "pickle-refused");
  EXPECT_NE(document.error().what.find("more than 400 values"), std::string::npos);
}

TEST(Pickle, ValuesStayGoodWhenTheDocumentIsMoved) {
  auto document = Read("(lp0\nS'abc'\na.");
  ASSERT_TRUE(document);
  const pickle::Value root = document->root();
  const Document moved = std::move(*document);
  EXPECT_EQ(root[0].text(), "abc");
  EXPECT_EQ(moved.root().id(), root.id());
}

TEST(Pickle, AnAccessorOfTheWrongKindGivesNothing) {
  const auto document = Read("K\x07.");
  ASSERT_TRUE(document);
  const pickle::Value seven = document->root();
  EXPECT_EQ(seven.integer(), 7);
  EXPECT_EQ(seven.real(), 7.0);
  EXPECT_FALSE(seven.boolean());
  EXPECT_EQ(seven.text(), "");
  EXPECT_EQ(seven.size(), 0u);
  EXPECT_TRUE(seven[0].is(Kind::kNone));
  EXPECT_TRUE(seven.entry(3).first.is(Kind::kNone));
  EXPECT_FALSE(seven.Get("x"));
  EXPECT_EQ(seven.class_name(), "");
  EXPECT_EQ(seven.arguments().size(), 0u);
  EXPECT_TRUE(seven.state().is(Kind::kNone));
  EXPECT_FALSE(seven.Attribute("x"));
}

TEST(Pickle, TheLastOfTwoEqualKeysCounts) {
  const auto document = Read("}(S'k'\nK\x01S'k'\nK\x02u.");
  ASSERT_TRUE(document);
  EXPECT_EQ(document->root().Get("k")->integer(), 2);
  EXPECT_EQ(document->root().size(), 2u);
}

TEST(Pickle, AttributesAreFoundInADictAndBesideSlots) {
  const auto plain = Read("cargparse\nNamespace\n)R}S'a'\nK\x01sb.");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->root().Attribute("a")->integer(), 1);
  EXPECT_FALSE(plain->root().Attribute("b"));
  const auto slots = Read(
      "cargparse\nNamespace\n)R}S'a'\nK\x01s}S'b'\nK\x02s\x86"
      "b.");
  ASSERT_TRUE(slots) << slots.error().what;
  EXPECT_EQ(slots->root().Attribute("a")->integer(), 1);
  EXPECT_EQ(slots->root().Attribute("b")->integer(), 2);
}

TEST(Pickle, ReadsAMillionValuesInAboutASecond) {
  // As .metadata names chunks: an object with a tuple of sizes in its state, by memo.
  std::string bytes = "\x80\x04}\x94(";
  for (int i = 0; i < 100000; ++i) {
    bytes += fmt::format(
        "\x8c\x0b"
        "layer{:06}",
        i);
    bytes +=
        "cargparse\nNamespace\n)\x81}(\x8c\x05sizesM\x01\x10M\x02\x10M\x03\x10\x87\x8c\x06offset";
    bytes += "M\x01\x10M\x02\x10\x86ub";
  }
  bytes += "u.";
  const auto start = std::chrono::steady_clock::now();
  const auto document = Read(bytes);
  ASSERT_TRUE(document) << document.error().what << document.error().at;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  EXPECT_EQ(document->root().size(), 100000u);
  EXPECT_EQ(document->root().entry(99999).second.Attribute("sizes")->size(), 3u);
}

TEST(PickleAllowList, KnowsTheNamesOfTorchInTheirThreeForms) {
  for (const auto* name : {"torch.bfloat16", "torch.float8_e4m3fn", "torch.FloatStorage",
                           "torch.cuda.HalfStorage", "torch.storage.UntypedStorage", "torch.Size",
                           "signal.SIGTERM", "megatron.core.transformer.enums.AttnBackend"}) {
    EXPECT_TRUE(pickle::TorchGlobals(name)) << name;
  }
  for (const auto* name : {"torch.cuda.float32", "torch.cuda.cuda.FloatStorage", "torch.", "",
                           "torch.load", "signal.SIG", "signal.SIGTERM.x", "signal.signal"}) {
    EXPECT_FALSE(pickle::TorchGlobals(name)) << name;
  }
}

}  // namespace
}  // namespace weighbridge
