#include "formats/torch_file/stored_zip.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

namespace weighbridge {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr uint64_t kMax32 = UINT32_MAX;  // from here on a size or place stands in 64 bits
constexpr uint64_t kLocalHeader = 30;
constexpr uint64_t kExtraHeader = 4;  // id and length of an extra field
constexpr uint32_t kUtf8 = 0x0800;
constexpr uint32_t kDescriptor = 0x0008;  // sizes and CRC stand behind the data
constexpr uint32_t kVersion64 = 0x2d;     // 4.5 of the ZIP specification
constexpr uint32_t kMadeBy = 0x031e;      // what miniz puts there

// c10::hash_combine
uint64_t HashCombine(uint64_t seed, uint64_t value) {
  return seed ^ (value + 0x9e3779b9 + (seed << 6) + (seed >> 2));
}

// A member without content has no descriptor.
uint32_t Flags(uint64_t nbytes) { return kUtf8 | (nbytes > 0 ? kDescriptor : 0); }

bool NeedsZip64(uint64_t nbytes, uint64_t offset) { return nbytes >= kMax32 || offset >= kMax32; }

uint64_t Zip64Bytes(uint64_t nbytes, uint64_t offset) {
  if (!NeedsZip64(nbytes, offset)) return 0;
  return kExtraHeader + (nbytes >= kMax32 ? 16 : 0) + (offset >= kMax32 ? 8 : 0);
}

}  // namespace

void StoredZip::Put16(uint64_t value) {
  for (int i = 0; i < 2; ++i) text_ += static_cast<char>(value >> (8 * i));
}
void StoredZip::Put32(uint64_t value) {
  for (int i = 0; i < 4; ++i) text_ += static_cast<char>(value >> (8 * i));
}
void StoredZip::Put64(uint64_t value) {
  Put32(value);
  Put32(value >> 32);
}

// The extra field with what does not fit 32 bits. In a local header the compressed size is 0: it is
// written before miniz has stored anything.
void StoredZip::PutZip64(const Member& m, bool local) {
  const uint64_t bytes = Zip64Bytes(m.nbytes, m.header_offset);
  if (bytes == 0) return;
  Put16(1);
  Put16(bytes - kExtraHeader);
  if (m.nbytes >= kMax32) {
    Put64(m.nbytes);
    Put64(local ? 0 : m.nbytes);
  }
  if (m.header_offset >= kMax32) Put64(m.header_offset);
}

void StoredZip::BeginData(std::string_view name, uint64_t nbytes) {
  const std::string full = archive_ + "/" + std::string(name);
  const Member& m = members_.emplace_back(Member{std::string(name), nbytes, position(), 0});
  const uint64_t zip64 = Zip64Bytes(nbytes, m.header_offset);
  // The padding stands in an extra field "FB", so that the data begins at a multiple of 64.
  const uint64_t start = m.header_offset + kLocalHeader + full.size() + zip64 + kExtraHeader;
  const uint64_t padding = (kAlignment - start % kAlignment) % kAlignment;
  text_ += "PK\x03\x04";
  Put16(0);  // version needed
  Put16(Flags(nbytes));
  Put16(0);                // stored
  text_.append(16, '\0');  // time, date, CRC, sizes
  Put16(full.size());
  Put16(zip64 + kExtraHeader + padding);
  text_ += full;
  PutZip64(m, /*local=*/true);
  text_ += "FB";
  Put16(padding);
  text_.append(padding, 'Z');
}

std::string StoredZip::TakeText() {
  taken_ += text_.size();
  return std::exchange(text_, {});
}

void StoredZip::PutDescriptor(uint32_t crc) {
  Member& m = members_.back();
  m.crc = crc;
  if (m.nbytes == 0) return;
  text_ += "PK\x07\x08";
  Put32(crc);
  const bool wide = NeedsZip64(m.nbytes, m.header_offset);
  for (int i = 0; i < 2; ++i) wide ? Put64(m.nbytes) : Put32(m.nbytes);
}

void StoredZip::EndData(uint32_t crc) {
  taken_ += members_.back().nbytes;
  PutDescriptor(crc);
}

void StoredZip::Add(std::string_view name, std::string_view content) {
  BeginData(name, content.size());
  text_ += content;
  PutDescriptor(Crc32(content));
}

void StoredZip::Skip(std::string_view name, uint64_t nbytes, uint32_t crc) {
  BeginData(name, nbytes);
  text_.append(nbytes, '\0');
  PutDescriptor(crc);
}

// PyTorchStreamWriter::writeSerializationId. It walks an unordered_set of the names with
// std::hash; torch's and this program's C++ library are the same there (libstdc++, 64 bits). With
// another one the digits would differ, which no reader looks at.
std::string StoredZip::SerializationId() const {
  std::unordered_set<std::string> names;
  uint64_t crcs = 0, hash = 0;
  for (const Member& m : members_) {
    names.insert(m.name);
    if (m.nbytes > 0) crcs = HashCombine(crcs, m.crc);
  }
  for (const std::string& name : names) hash = HashCombine(hash, std::hash<std::string>{}(name));
  return fmt::format("{:020}{:020}", hash, crcs);
}

void StoredZip::PutCentralHeader(const Member& m) {
  const std::string full = archive_ + "/" + m.name;
  text_ += "PK\x01\x02";
  Put16(0);  // version made by
  Put16(0);  // version needed
  Put16(Flags(m.nbytes));
  Put16(0);  // stored
  Put32(0);  // time, date
  Put32(m.crc);
  Put32(std::min(m.nbytes, kMax32));
  Put32(std::min(m.nbytes, kMax32));
  Put16(full.size());
  Put16(Zip64Bytes(m.nbytes, m.header_offset));
  text_.append(10, '\0');  // comment, disk, attributes
  Put32(std::min(m.header_offset, kMax32));
  text_ += full;
  PutZip64(m, /*local=*/false);
}

std::string StoredZip::Finish() {
  const uint64_t begin = position();
  for (const Member& m : members_) PutCentralHeader(m);
  const uint64_t end = position(), bytes = end - begin;
  // The 64-bit records are always there.
  text_ += "PK\x06\x06";
  Put64(44);  // bytes of this record that follow
  Put16(kMadeBy);
  Put16(kVersion64);
  Put64(0);  // disks
  Put64(members_.size());
  Put64(members_.size());
  Put64(bytes);
  Put64(begin);
  text_ += "PK\x06\x07";
  Put32(0);
  Put64(end);
  Put32(1);
  text_ += "PK\x05\x06";
  Put32(0);
  Put16(std::min<uint64_t>(members_.size(), UINT16_MAX));
  Put16(std::min<uint64_t>(members_.size(), UINT16_MAX));
  Put32(std::min(bytes, kMax32));
  Put32(std::min(begin, kMax32));
  Put16(0);
  return TakeText();
}

}  // namespace weighbridge
