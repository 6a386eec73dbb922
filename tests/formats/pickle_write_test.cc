#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/crc32.h"
#include "formats/pickle/write.h"

// Expected bytes and CRCs are of Python's pickle.dumps; tests/oracle/test_torch_dist_writer.py
// compares more values with it.
namespace weighbridge::pickle {
namespace {

using std::string_literals::operator""s;

// {"step": [1, 256, 70000, -1, 2**40, 1.5, None, True], "t": ()}
std::string Mixed(int protocol) {
  Writer w(protocol);
  w.Dict(2).String("step").List(8).Int(1).Int(256).Int(70000).Int(-1).Int(int64_t{1} << 40);
  w.Float(1.5).None().Bool(true).String("t").Tuple(0);
  return std::move(w).Finish();
}

TEST(PickleWriter, WritesProtocol2AsPythonDoes) {
  EXPECT_EQ(Mixed(2),
            "\x80\x02}q\x00(X\x04\x00\x00\x00stepq\x01]q\x02(K\x01M\x00\x01Jp\x11\x01\x00J"
            "\xff\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01G?\xf8\x00\x00\x00\x00\x00\x00N\x88"
            "eX\x01\x00\x00\x00tq\x03)u."s);
}

TEST(PickleWriter, WritesProtocol4WithFramesAsPythonDoes) {
  EXPECT_EQ(Mixed(4),
            "\x80\x04\x95\x37\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x04step\x94]\x94(K\x01M\x00"
            "\x01Jp\x11\x01\x00J\xff\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01G?\xf8\x00\x00\x00"
            "\x00\x00\x00N\x88"
            "e\x8c\x01t\x94)u."s);
}

TEST(PickleWriter, FillsListsInBatchesOfAThousand) {
  Writer w(4);
  w.List(1001);
  for (int i = 0; i < 1001; ++i) w.Int(i);
  const std::string text = std::move(w).Finish();
  EXPECT_EQ(text.size(), 2765u);
  EXPECT_EQ(Crc32(text), 0x23156d71u);
}

TEST(PickleWriter, FillsDictsInBatchesAndEndsAFullOneWithAnEmptyOne) {
  Writer w(4);
  w.Dict(1000);
  for (int i = 0; i < 1000; ++i) w.String(fmt::format("k{:05}", i)).Int(i);
  const std::string text = std::move(w).Finish();
  EXPECT_EQ(text.size(), 11762u);
  EXPECT_EQ(Crc32(text), 0x7ac25526u);
}

TEST(PickleWriter, BeginsANewFrameAfter64KiB) {
  for (const auto& [protocol, size, crc] :
       {std::tuple{2, 250149u, 0x8b439da1u}, std::tuple{4, 187940u, 0x0b12f891u}}) {
    Writer w(protocol);
    w.List(9000);
    for (int i = 0; i < 9000; ++i) w.String(fmt::format("string number {}", i));
    const std::string text = std::move(w).Finish();
    EXPECT_EQ(text.size(), size);
    EXPECT_EQ(Crc32(text), crc);
  }
}

TEST(PickleWriter, WritesAnEqualStringOrGlobalOnce) {
  Writer w(2);
  w.Tuple(4).String("a").Global("torch", "Size").Global("torch", "Size").String("a");
  EXPECT_EQ(std::move(w).Finish(),
            "\x80\x02(X\x01\x00\x00\x00"
            "aq\x00"
            "ctorch\nSize\nq\x01h\x01h\x00tq\x02."s);
}

TEST(PickleWriter, WritesAValueAgainByItsMemo) {
  Writer w(2);
  w.Tuple(2).Call("m", "f").Tuple(1).Int(0);
  w.Again(w.LastMemo());
  EXPECT_EQ(std::move(w).Finish(),
            "\x80\x02"
            "cm\nf\nq\x00K\x00\x85q\x01Rq\x02h\x02\x86q\x03."s);
}

}  // namespace
}  // namespace weighbridge::pickle
