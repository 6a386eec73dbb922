#include "base/file_coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "support/temp_dir.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::WriteBytes;

FileCoordinatorOptions Options(const fs::path& folder, int rank, int size) {
  return {.folder = folder,
          .launch = {rank, size, "job", "test"},
          .timeout_s = 1.5,
          .start_timeout_s = 20,
          .say = {}};
}

// Runs work(coordinator) on a thread per rank.
template <typename Work>
void RunRanks(const fs::path& folder, int size, const Work& work) {
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      const auto ranks = JoinInFolder(Options(folder, r, size));
      ASSERT_TRUE(ranks) << ranks.error().what;
      work(**ranks);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(FileCoordinator, GathersInRankOrderAndTellsAll) {
  const TempDir dir;
  RunRanks(dir / "meet", 4, [](Coordinator& ranks) {
    for (int round = 0; round < 3; ++round) {
      const auto all = ranks.Gather(std::to_string(10 * round + ranks.rank()));
      ASSERT_TRUE(all);
      if (ranks.first()) {
        const int r = 10 * round;
        EXPECT_EQ(*all, (std::vector<std::string>{std::to_string(r), std::to_string(r + 1),
                                                  std::to_string(r + 2), std::to_string(r + 3)}));
      }
      EXPECT_EQ(ranks.Broadcast(ranks.first() ? "hello" : "never"), "hello");
    }
    EXPECT_TRUE(ranks.Check());
  });
  EXPECT_FALSE(fs::exists(dir / "meet")) << "nothing is left behind";
}

TEST(FileCoordinator, IsNotMisledByWhatAKilledJobLeft) {
  const TempDir dir;
  const std::string hello =
      R"({"nonce":"old","job":"job","size":2,"host":"h","process":"1","boot":"b"})";
  WriteBytes(dir / "meet/hello-1", hello);
  WriteBytes(dir / "meet/session",
             R"({"id":"session-old","guests":[{"nonce":"x"},)" + hello + "]}");
  WriteBytes(dir / "meet/session-old/ready-1", "");
  WriteBytes(dir / "meet/session-old/all-0", "stale");
  WriteBytes(dir / "meet/session-old/state-0", "nonsense \x01");
  RunRanks(dir / "meet", 2, [](Coordinator& ranks) {
    EXPECT_EQ(ranks.Broadcast(ranks.first() ? "fresh" : ""), "fresh");
  });
}

TEST(FileCoordinator, NamesRanksThatDoNotCome) {
  const TempDir dir;
  FileCoordinatorOptions options = Options(dir / "meet", 0, 3);
  options.start_timeout_s = 0.3;
  const auto alone = JoinInFolder(options);
  ASSERT_FALSE(alone);
  EXPECT_EQ(alone.error().id, "rank-missing");
  EXPECT_THAT(alone.error().what, HasSubstr("ranks 1, 2"));
  EXPECT_THAT(alone.error().hint, HasSubstr("--launcher none"));
}

TEST(FileCoordinator, AnErrorOfOneRankReachesAll) {
  const TempDir dir;
  RunRanks(dir / "meet", 3, [](Coordinator& ranks) {
    Error mine;
    if (ranks.rank() == 2) {
      mine =
          ranks.Abort({ErrorKind::kCorrupt, "file-truncated", "the file is short", "x", "get it"});
    } else {
      const Status met = ranks.Barrier();
      ASSERT_FALSE(met);
      mine = ranks.Abort(met.error());
    }
    EXPECT_EQ(mine.kind, ErrorKind::kCorrupt);
    EXPECT_EQ(mine.id, "file-truncated");
    EXPECT_THAT(mine.what, HasSubstr("rank 2 "));
    EXPECT_THAT(mine.what, HasSubstr("the file is short"));
  });
}

TEST(FileCoordinator, SilenceOfARankOnAnotherHostEndsTheJob) {
  const TempDir dir;
  const auto start = std::chrono::steady_clock::now();
  // A rank that says hello from another kernel, comes, and is never heard of again.
  std::thread other([&] {
    const std::string hello =
        R"({"boot":"elsewhere","host":"far","job":"job","nonce":"n","process":"9","size":2})";
    WriteBytes(dir / "meet/hello-1", hello);
    for (;;) {
      for (const auto& entry : fs::directory_iterator(dir / "meet")) {
        if (!entry.is_directory()) continue;
        WriteBytes(entry.path() / "state-1", R"({"beat":1,"left":false})");
        WriteBytes(entry.path() / "ready-1", "");
        return;
      }
    }
  });
  const auto ranks = JoinInFolder(Options(dir / "meet", 0, 2));
  other.join();
  ASSERT_TRUE(ranks) << ranks.error().what;
  const auto all = (*ranks)->Gather("");
  ASSERT_FALSE(all);
  EXPECT_EQ(all.error().id, "rank-lost");
  EXPECT_THAT(all.error().what, HasSubstr("rank 1 (process 9 on far)"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(FileCoordinator, RefusesAFolderWhereAnotherJobMeets) {
  const TempDir dir;
  RunRanks(dir / "meet", 2, [&](Coordinator& ranks) {
    if (ranks.first()) {
      const auto second = JoinInFolder(Options(dir / "meet", 0, 2));
      ASSERT_FALSE(second);
      EXPECT_EQ(second.error().id, "job-busy");
    }
    EXPECT_TRUE(ranks.Barrier());
  });
}

}  // namespace
}  // namespace weighbridge
