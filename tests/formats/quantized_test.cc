#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "formats/quantized/checkpoint.h"
#include "formats/quantized/scheme.h"

namespace weighbridge {
namespace {

const QuantizationScheme& Named(std::string_view name) {
  for (const QuantizationScheme& s : QuantizationSchemes()) {
    if (s.name == name) return s;
  }
  ADD_FAILURE() << name;
  return QuantizationSchemes()[0];
}

ScaleLayout Blocks(int64_t rows, int64_t columns) { return ScaleLayout::Blocks(rows, columns); }

TEST(QuantizationScheme, EveryNameIsListedOnce) {
  std::set<std::string_view> names;
  for (const QuantizationScheme& s : QuantizationSchemes()) names.insert(s.name);
  const auto listed = QuantizationNames();
  EXPECT_EQ(std::vector(listed.begin(), listed.end()), std::vector(names.begin(), names.end()));
}

TEST(QuantizationScheme, OneScaleCountsForTheWholeTensor) {
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{1, 1}}) {
    const auto grid = ResolveGrid(Named("fp8"), {6, 4}, shape, ScaleLayout());
    ASSERT_TRUE(grid);
    EXPECT_EQ(grid->block_rows, 6);
    EXPECT_EQ(grid->block_columns, 4);
  }
}

TEST(QuantizationScheme, ScalesPerRowAreAListOrAColumn) {
  for (const Shape& shape : {Shape{6}, Shape{6, 1}}) {
    const auto grid = ResolveGrid(Named("fp8"), {6, 4}, shape, ScaleLayout());
    ASSERT_TRUE(grid);
    EXPECT_EQ(grid->block_rows, 1);
    EXPECT_EQ(grid->block_columns, 4);
  }
}

TEST(QuantizationScheme, BlocksAreThoseOfTheConfigAndTheLastMayBeSmaller) {
  const auto grid = ResolveGrid(Named("fp8"), {576, 7168}, {5, 56}, Blocks(128, 128));
  ASSERT_TRUE(grid);
  EXPECT_EQ(grid->block_rows, 128);
  EXPECT_EQ(grid->rows, 5);
  EXPECT_FALSE(ResolveGrid(Named("fp8"), {576, 7168}, {4, 56}, Blocks(128, 128)));
  EXPECT_FALSE(ResolveGrid(Named("fp8"), {576, 7168}, {56, 5}, Blocks(128, 128)));
  EXPECT_FALSE(ResolveGrid(Named("fp8"), {576, 7168}, {1}, Blocks(128, 128)));
}

TEST(QuantizationScheme, BlocksWithoutAConfigAreOf128OrExactQuotients) {
  EXPECT_EQ(ResolveGrid(Named("fp8"), {192, 256}, {2, 2}, ScaleLayout())->block_rows, 128);
  EXPECT_EQ(ResolveGrid(Named("fp8"), {256, 64}, {4, 2}, ScaleLayout())->block_rows, 64);
  EXPECT_EQ(ResolveGrid(Named("fp8"), {576, 256}, {5, 2}, ScaleLayout())->block_rows, 128);
  EXPECT_FALSE(ResolveGrid(Named("fp8"), {576, 256}, {7, 2}, ScaleLayout()));
  EXPECT_FALSE(ResolveGrid(Named("fp8"), {576, 256}, {0, 2}, ScaleLayout()));
  EXPECT_FALSE(ResolveGrid(Named("fp8"), {6, 4}, {-1, 4}, ScaleLayout()));
}

TEST(QuantizationScheme, AQuotientThatIsNot128IsAmbiguousWhere128FitsToo) {
  const auto judge = [](const Shape& values, const Shape& scales) {
    const auto grid = ResolveGrid(Named("fp8"), values, scales, ScaleLayout());
    return std::pair(IsGuessed(*grid, values), IsAmbiguous(*grid, values));
  };
  EXPECT_EQ(judge({192, 256}, {2, 2}), std::pair(true, true));
  EXPECT_EQ(judge({256, 256}, {2, 2}), std::pair(true, false));
  EXPECT_EQ(judge({64, 64}, {2, 2}), std::pair(true, false));
  EXPECT_EQ(judge({576, 256}, {5, 2}), std::pair(true, false));
  EXPECT_EQ(judge({192, 256}, {192, 1}), std::pair(false, false));
  EXPECT_EQ(judge({192, 256}, {1}), std::pair(false, false));
}

TEST(QuantizationScheme, ALayoutThatTheScalesDoNotHaveIsNone) {
  const ScaleLayout tensor{ScaleLayout::Kind::kTensor, {}, ""},
      channel{ScaleLayout::Kind::kChannel, {}, ""};
  EXPECT_TRUE(ResolveGrid(Named("fp8"), {6, 4}, {1}, tensor)->shared);
  EXPECT_TRUE(ResolveGrid(Named("fp8"), {3, 6, 4}, {3, 1, 1}, tensor));
  EXPECT_FALSE(ResolveGrid(Named("fp8"), {6, 4}, {6, 1}, tensor));
  EXPECT_FALSE(ResolveGrid(Named("fp8"), {6, 4}, {1}, channel));
  EXPECT_EQ(ResolveGrid(Named("fp8"), {6, 4}, {6}, channel)->block_rows, 1);
  EXPECT_FALSE(ResolveGrid(Named("fp8"), {6, 4}, {6}, Blocks(1, 4)));
  EXPECT_EQ(ResolveGrid(Named("int4"), {8, 192}, {8, 2}, Blocks(1, 96))->block_columns, 96);
  EXPECT_FALSE(ResolveGrid(Named("nvfp4"), {8, 64}, {8, 4}, Blocks(1, 32)));
  EXPECT_TRUE(ResolveGrid(Named("nvfp4"), {8, 64}, {8, 4}, Blocks(1, 16)));
}

TEST(QuantizationScheme, GroupsHaveTheSizeOfTheScheme) {
  EXPECT_EQ(ResolveGrid(Named("nvfp4"), {8, 64}, {8, 4}, ScaleLayout())->block_columns, 16);
  EXPECT_FALSE(ResolveGrid(Named("nvfp4"), {8, 64}, {8, 2}, ScaleLayout()));
  EXPECT_FALSE(ResolveGrid(Named("nvfp4"), {8, 64}, {4, 4}, ScaleLayout()));
}

TEST(QuantizationScheme, EachOfStackedMatricesHasItsOwnScales) {
  const auto grid = ResolveGrid(Named("mxfp4"), {4, 8, 64}, {4, 8, 2}, ScaleLayout());
  ASSERT_TRUE(grid);
  EXPECT_FALSE(grid->shared);
  EXPECT_EQ(grid->rows, 8);
  EXPECT_FALSE(ResolveGrid(Named("mxfp4"), {4, 8, 64}, {3, 8, 2}, ScaleLayout()));
  EXPECT_FALSE(ResolveGrid(Named("mxfp4"), {4, 8, 64}, {8, 2}, ScaleLayout()));
}

TEST(QuantizationScheme, CodesThatCannotBeAreRefused) {
  EXPECT_EQ(ValueShape(Named("mxfp4"), {4, 8, 2, 16}), (Shape{4, 8, 64}));
  EXPECT_FALSE(ValueShape(Named("mxfp4"), {8, 16}));
  EXPECT_FALSE(ValueShape(Named("mxfp4"), {4, 8, 2, 8}));
  EXPECT_FALSE(ValueShape(Named("mxfp4"), {4, 0, int64_t{1} << 60, 16}));
  EXPECT_EQ(ValueShape(Named("int4"), {8, 4}), (Shape{8, 32}));
  EXPECT_FALSE(ValueShape(Named("int4"), {0, int64_t{1} << 61}));
  EXPECT_FALSE(ValueShape(Named("int4"), {}));
}

TEST(QuantizationConfig, IsFoundInTheTextConfigToo) {
  const nlohmann::json table = {{"quant_method", "fp8"}, {"weight_block_size", {128, 64}}};
  const auto config = ReadQuantizationConfig(
      {{"text_config", {{"quantization_config", table}, {"torch_dtype", "float16"}}}});
  ASSERT_TRUE(config);
  EXPECT_EQ(config->method, "fp8");
  ASSERT_EQ(config->promises.size(), 1u);
  EXPECT_EQ(config->promises[0].layout.block, (std::array<int64_t, 2>{128, 64}));
  EXPECT_EQ(config->dtype, DType::kF16);
}

TEST(QuantizationConfig, BlocksOfCompressedTensorsStandInTheirGroups) {
  const auto with = [](const nlohmann::json& structure) {
    return ReadQuantizationConfig(
        {{"quantization_config",
          {{"quant_method", "compressed-tensors"},
           {"config_groups", {{"group_0", {{"weights", {{"block_structure", structure}}}}}}}}}});
  };
  EXPECT_EQ(with({128, 64})->promises.at(0).layout,
            ScaleLayout::Blocks(128, 64, "block_structure [128, 64]"));
  EXPECT_EQ(with(nullptr)->promises.at(0).layout, ScaleLayout());
  EXPECT_FALSE(with({0, 64}));
}

TEST(QuantizationConfig, NullAndAbsenceMeanPlain) {
  EXPECT_TRUE(ReadQuantizationConfig(nlohmann::json::object())->plain());
  EXPECT_TRUE(ReadQuantizationConfig({{"quantization_config", nullptr}})->plain());
  EXPECT_TRUE(ReadQuantizationConfig(nlohmann::json::array())->plain());
  EXPECT_FALSE(ReadQuantizationConfig({{"quantization_config", "fp8"}}));
  EXPECT_EQ(
      ReadQuantizationConfig({{"quantization_config", {{"quant_method", "gptq"}}}}).error().id,
      "quantized");
}

TEST(QuantizationConfig, IsTakenOutWhereverItStands) {
  nlohmann::ordered_json config = {
      {"a", 1},
      {"quantization_config", {{"quant_method", "fp8"}}},
      {"text_config", {{"quantization_config", {{"x", 1}}}, {"b", 2}}}};
  EXPECT_TRUE(RemoveQuantizationConfig(config));
  EXPECT_EQ(config.dump(), R"({"a":1,"text_config":{"b":2}})");
  EXPECT_FALSE(RemoveQuantizationConfig(config));
}

}  // namespace
}  // namespace weighbridge
