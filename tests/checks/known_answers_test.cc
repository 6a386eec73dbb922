// Every rank's tensors, as megatron-core itself holds them in memory (tests/testdata/known, made by
// tools/make_known_answers.py), against what our plans give: names, shapes, dtypes, bytes.
#include <map>
#include <set>
#include <tuple>

#include "base/hash.h"
#include "golden_models.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct KnownCase {
  std::string model, grid;
};

void PrintTo(const KnownCase& c, std::ostream* out) { *out << c.model << "/" << c.grid; }

std::vector<KnownCase> AllCases() {
  std::vector<KnownCase> cases;
  for (const std::string& model : GoldenNames()) {
    for (const auto& entry : fs::directory_iterator(TestData() / "known" / model)) {
      const std::string stem = entry.path().stem().string();
      if (stem != "torch_dist") cases.push_back({model, stem});
    }
  }
  std::sort(cases.begin(), cases.end(), [](const auto& a, const auto& b) {
    return std::tie(a.model, a.grid) < std::tie(b.model, b.grid);
  });
  return cases;
}

int64_t IntOr(const json& grid, const char* key, int64_t fallback) {
  return grid.contains(key) && grid[key].is_number() ? grid[key].get<int64_t>() : fallback;
}

ParallelGrid GridOf(const json& g) {
  ParallelGrid grid;
  grid.tp = static_cast<int>(IntOr(g, "tp", 1));
  grid.pp = static_cast<int>(IntOr(g, "pp", 1));
  grid.vpp = static_cast<int>(IntOr(g, "vpp", 1));
  grid.ep = static_cast<int>(IntOr(g, "ep", 1));
  grid.etp = static_cast<int>(IntOr(g, "etp", 1));
  grid.first_stage_layers = IntOr(g, "first_stage_layers", -1);
  grid.last_stage_layers = IntOr(g, "last_stage_layers", -1);
  if (g.contains("pp_layout") && g["pp_layout"].is_string()) grid.pp_layout = g["pp_layout"];
  grid.account_for_embedding = g.value("account_for_embedding", false);
  grid.account_for_loss = g.value("account_for_loss", false);
  return grid;
}

class KnownAnswers : public testing::TestWithParam<KnownCase> {};

TEST_P(KnownAnswers, EveryRankHoldsWhatMegatronCoreHolds) {
  const auto known =
      ReadJsonFile(TestData() / "known" / GetParam().model / (GetParam().grid + ".json"));
  ASSERT_TRUE(known) << known.error().what;
  const ParallelGrid grid = GridOf((*known)["grid"]);
  const bool without_mtp = GetParam().model == "deepseek_v3";  // its HF folder has no MTP weights
  ExpandOptions options{.tp = grid.tp};
  int64_t padded = 0;
  for (const json& t : (*known)["tensors"]) {
    if (t["global_name"] == "embedding.word_embeddings.weight") {
      padded = std::max(padded, t["shape"][0].get<int64_t>() * grid.tp);
    }
  }
  options.pad_vocab = padded;
  const auto opened = OpenGolden(TestData() / "hf" / GetParam().model, options);
  ASSERT_NE(opened, nullptr);
  const auto placement = Placement::Create(*opened->model, grid);
  ASSERT_TRUE(placement) << placement.error().what;
  const Dialect dialect = (*known)["spec"] == "local" ? Dialect::kLocal : Dialect::kTe;

  // With MTP weights absent the tree cannot be imported: names and places are compared, and the
  // bytes of everything else through a model without MTP.
  std::map<std::tuple<RankId, std::string>, const MegatronTensor*> ours;
  ExpandOptions bare = options;
  bare.without_mtp = without_mtp;
  const auto opened_bare = OpenGolden(TestData() / "hf" / GetParam().model, bare);
  ASSERT_NE(opened_bare, nullptr);
  std::set<std::tuple<RankId, std::string>> names;
  for (const PlacedParameter& p : placement->parameters()) {
    const bool expert = p.parameter->is_expert();
    for (int r = 0; r < placement->GroupSize(*p.parameter); ++r) {
      names.insert({RankId{expert ? 0 : r, p.pp, p.vpp, p.ep, expert ? r : 0},
                    placement->RankName(p, dialect)});
    }
  }
  std::optional<MegatronTree> tree;
  if (!without_mtp || grid.pp_layout.empty()) {
    const auto bare_placement = Placement::Create(*opened_bare->model, grid);
    ASSERT_TRUE(bare_placement) << bare_placement.error().what;
    auto imported = ImportTree(*opened_bare->model, *bare_placement, *opened_bare->hf, dialect);
    ASSERT_TRUE(imported) << imported.error().what;
    tree = std::move(*imported);
    for (const MegatronTensor& t : tree->tensors) ours[{t.rank, t.name}] = &t;
  }

  std::set<std::tuple<RankId, std::string>> seen;
  int64_t hashed = 0;
  for (const json& t : (*known)["tensors"]) {
    const std::string name = t["name"];
    const bool expert = name.find(".mlp.experts.") != std::string::npos;
    const json& r = t["rank"];
    RankId rank{r["tp"], r["pp"], r["vpp"], r["ep"], r["etp"]};
    // A dense tensor does not depend on the expert coordinates of its rank, nor an expert on tp.
    if (expert) {
      rank.tp = 0;
    } else {
      rank.ep = rank.etp = 0;
    }
    ASSERT_TRUE(names.contains({rank, name})) << name << " is not expected on this rank: " << r;
    seen.insert({rank, name});
    const auto it = ours.find({rank, name});
    if (it == ours.end() || t["xxh3"].is_null()) continue;
    const MegatronTensor& tensor = *it->second;
    EXPECT_EQ(json(tensor.shape), t["shape"]) << name;
    EXPECT_EQ(ShortName(tensor.dtype), t["dtype"].get<std::string>()) << name;
    EXPECT_EQ(Xxh3Hex(tensor.bytes), t["xxh3"].get<std::string>()) << name << " " << r;
    ++hashed;
  }
  EXPECT_EQ(seen, names) << "a tensor of ours is on no rank of Megatron's";
  if (tree) {
    EXPECT_GT(hashed, 10);
  }
}

INSTANTIATE_TEST_SUITE_P(Grids, KnownAnswers, testing::ValuesIn(AllCases()),
                         [](const auto& test) { return test.param.model + "_" + test.param.grid; });

// Grids on which megatron-core raised instead of building the model.
TEST(RefusedGrids, WhatMegatronCoreRefusesIsRefusedOrSaid) {
  const auto known = ReadJsonFile(TestData() / "known/refused.json");
  ASSERT_TRUE(known) << known.error().what;
  int refused = 0, noted = 0, padded = 0;
  for (const json& entry : (*known)["refused"]) {
    const ParallelGrid grid = GridOf(entry["grid"]);
    const std::string name = entry["name"], error = entry["error"];
    SCOPED_TRACE(name + " " + ToString(grid) + ": " + error);
    const auto opened = OpenGolden(TestData() / "hf" / name, {.tp = grid.tp});
    ASSERT_NE(opened, nullptr);
    const auto placement = Placement::Create(*opened->model, grid);
    if (error.find("Bias in Moe") != std::string::npos) {
      // The layout is defined, and grids with such ranks are asked for: a note.
      ASSERT_TRUE(placement) << placement.error().what;
      ASSERT_EQ(placement->notes().size(), 1u);
      EXPECT_EQ(placement->notes()[0].id, "moe-bias-etp");
      ++noted;
    } else if (error.find("386 is not divisible by 3") != std::string::npos) {
      // There the vocabulary was not padded; here it always is, and a note says so.
      ASSERT_TRUE(placement) << placement.error().what;
      EXPECT_GT(opened->model->padded_vocab(), opened->model->vocab());
      EXPECT_EQ(opened->model->padded_vocab() % grid.tp, 0);
      ++padded;
    } else {
      ASSERT_FALSE(placement);
      EXPECT_EQ(placement.error().kind, ErrorKind::kUsage);
      EXPECT_EQ(placement.error().id, "grid");
      ++refused;
    }
  }
  EXPECT_EQ(padded, 1);
  EXPECT_EQ(noted, 6);
  EXPECT_EQ(refused, 13);
}

TEST(RefusedGrids, ExpertRanksNeedExperts) {
  const auto opened = OpenGolden(TestData() / "hf/llama_tied", {});
  ASSERT_NE(opened, nullptr);
  const auto ep = Placement::Create(*opened->model, {.ep = 2});
  ASSERT_FALSE(ep);
  EXPECT_EQ(ep.error().id, "grid");
  const auto etp = Placement::Create(*opened->model, {.etp = 2});
  ASSERT_TRUE(etp);
  ASSERT_EQ(etp->notes().size(), 1u);
  EXPECT_EQ(etp->notes()[0].id, "etp-unused");
}

}  // namespace
}  // namespace weighbridge
