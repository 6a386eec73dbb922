// The bytes of a ZIP as torch's PyTorchStreamWriter lays it out (caffe2/serialize and miniz in the
// PyTorch sources; each detail is tested against files that torch 2.11 wrote).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/crc32.h"

namespace weighbridge {

// Members in order. The text grows as they are added; the bytes of a large member never pass
// through here: BeginData, TakeText, [the caller writes them], EndData.
class StoredZip {
 public:
  // `archive`: the folder that all members lie in.
  explicit StoredZip(std::string archive) : archive_(std::move(archive)) {}

  void Add(std::string_view name, std::string_view content);
  // As Add, for content that is not at hand; zeros stand in the text for it.
  void Skip(std::string_view name, uint64_t nbytes, uint32_t crc);

  void BeginData(std::string_view name, uint64_t nbytes);
  void EndData(uint32_t crc);

  // What was written since the beginning or the last call.
  std::string TakeText();

  // The hash of names and CRCs of all members so far, which torch adds as a member.
  std::string SerializationId() const;

  // Adds the central directory; what TakeText would give.
  std::string Finish();

 private:
  struct Member {
    std::string name;
    uint64_t nbytes, header_offset;
    uint32_t crc;
  };

  void Put16(uint64_t value);
  void Put32(uint64_t value);
  void Put64(uint64_t value);
  void PutDescriptor(uint32_t crc);
  void PutZip64(const Member& member, bool local);
  void PutCentralHeader(const Member& member);
  uint64_t position() const { return taken_ + text_.size(); }

  std::string archive_;
  std::string text_;
  uint64_t taken_ = 0;  // bytes before text_
  std::vector<Member> members_;
};

}  // namespace weighbridge
