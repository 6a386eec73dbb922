#include "family/derive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "base/json.h"
#include "family/library.h"
#include "family/model.h"

namespace weighbridge {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const FamilyLibrary& Library() {
  static const FamilyLibrary& library = *new FamilyLibrary(FamilyLibrary::BuiltIn());
  return library;
}

json Null(const json& value) { return value == "none" ? json(nullptr) : value; }

// What Megatron's config holds for the model; with `bridge` as the Bridge's class spells it.
json Fields(const Model& model, bool bridge) {
  json fields = json::object();
  for (const Field& field : model.config()) fields[field.name] = Null(field.value);
  if (bridge) {
    for (const Field& field : model.BridgeFields(Dialect::kTe)) fields[field.name] = field.value;
  }
  return fields;
}

std::set<std::string> Names(const Model& model) {
  std::set<std::string> names;
  for (const Parameter& p : model.parameters()) names.insert(p.hf.begin(), p.hf.end());
  return names;
}

class EveryConfig : public testing::TestWithParam<fs::path> {};

// The files are configs as transformers writes them, of either version.
TEST_P(EveryConfig, IsDerivedFromItsOwnFields) {
  const auto config = ReadJsonFile(GetParam());
  ASSERT_TRUE(config) << config.error().what;
  const auto family = Library().ForConfig(*config);
  ASSERT_TRUE(family) << family.error().what;
  const auto model = Model::Expand(**family, *config, {});
  ASSERT_TRUE(model) << model.error().what;
  for (const bool bridge : {false, true}) {
    const json fields = Fields(*model, bridge);
    const auto derived = DeriveHfConfig(**family, fields, bridge);
    ASSERT_TRUE(derived) << derived.error().what;
    EXPECT_EQ(*Library().ForConfig(*derived), *family);
    const auto again = Model::Expand(**family, *derived, {});
    ASSERT_TRUE(again) << again.error().what << "\n" << derived->dump(1);
    const json found = Fields(*again, bridge);
    for (const auto& [field, value] : fields.items()) {
      EXPECT_EQ(found[field], value) << field << (bridge ? " of the Bridge" : "");
    }
    EXPECT_EQ(Names(*again), Names(*model));
  }
}

std::vector<fs::path> Configs() {
  std::vector<fs::path> paths;
  for (const auto& entry :
       fs::directory_iterator(WEIGHBRIDGE_SOURCE_DIR "/tests/testdata/family_configs")) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string NameOf(const testing::TestParamInfo<fs::path>& info) {
  std::string name = info.param.stem().string();
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(FamilyConfigs, EveryConfig, testing::ValuesIn(Configs()), NameOf);

}  // namespace
}  // namespace weighbridge
