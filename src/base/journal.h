// Which files of an unfinished output are finished: a folder with one small entry per file, so that
// processes on several hosts add theirs without knowing of each other. An entry appears whole or
// not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace weighbridge {

// A file that is complete and synced.
struct FinishedFile {
  std::string name;  // in the output's folder, relative; never above it
  uint64_t nbytes = 0;
  uint32_t crc = 0;  // CRC-32 of all of it
};

// One file as a line of JSON, and back. kInvalid for anything that Text did not write.
std::string FinishedFileText(const FinishedFile& file);
Result<FinishedFile> ParseFinishedFile(const std::string& text);

// Any thread and any process may add entries; each name is added by one.
class Journal {
 public:
  // `folder` is there.
  explicit Journal(std::filesystem::path folder) : folder_(std::move(folder)) {}

  // After the file itself was synced. On return the entry is on the disk.
  Status Add(const FinishedFile& file) const;
  // By rising name. What is no entry is passed over.
  std::vector<FinishedFile> Read() const;
  void Remove(const std::string& name) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace weighbridge
