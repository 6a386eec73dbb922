#include "tensor/dtype.h"

#include <gtest/gtest.h>

namespace weighbridge {
namespace {

TEST(DTypeTable, HasOneRowPerEnumeratorInOrder) {
  int i = 0;
  for (const DTypeInfo& info : AllDTypes()) EXPECT_EQ(static_cast<int>(info.dtype), i++);
}

TEST(DTypeTable, ParsesBothSpellingsOfEveryRow) {
  for (const DTypeInfo& info : AllDTypes()) {
    EXPECT_EQ(ParseSafetensorsName(info.safetensors_name), info.dtype);
    EXPECT_EQ(ParseShortName(info.short_name), info.dtype);
  }
}

TEST(DTypeTable, RefusesPackedElementsThatDoNotFillTheirLastByte) {
  EXPECT_EQ(BytesFor(DType::kF4, 4), 2u);
  EXPECT_EQ(BytesFor(DType::kF4, 3), std::nullopt);
  EXPECT_EQ(BytesFor(DType::kF64, INT64_MAX), std::nullopt);
}

}  // namespace
}  // namespace weighbridge
