// Field names and offsets: APPNOTE.TXT of PKWARE, version 6.3.10, sections 4.3 and 4.5.3.
#include "formats/torch_file/zip.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_set>

#include "base/checked.h"
#include "base/strings.h"

namespace weighbridge {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50, kDescriptorSignature = 0x08074b50,
                   kEntrySignature = 0x02014b50, kEndSignature = 0x06054b50,
                   kEnd64Signature = 0x06064b50, kLocatorSignature = 0x07064b50;
constexpr uint64_t kLocalSize = 30, kEntrySize = 46, kEndSize = 22, kEnd64Size = 56,
                   kLocatorSize = 20;
constexpr uint32_t kIn64 = 0xffffffff;  // the number stands in the ZIP64 field
constexpr uint16_t kZip64Field = 1;
constexpr uint16_t kEncrypted = 1, kHasDescriptor = 8;

constexpr char kTruncatedHint[] =
    "the download or copy is not complete: fetch the file again, or copy it again";

struct Directory {
  uint64_t offset = 0, size = 0, entries = 0;
};

struct Entry {
  ZipMember member;
  uint64_t header = 0;  // offset of the local header
  uint16_t flags = 0;
};

class ZipReader {
 public:
  ZipReader(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes), where_(where) {}

  Result<ZipArchive> Read() {
    WB_TRY(const uint64_t end, FindEnd());
    WB_TRY(const Directory directory, ReadEnd(end));
    WB_TRY(auto entries, ReadDirectory(directory));
    ZipArchive archive;
    archive.directory = bytes_.subspan(directory.offset, directory.size);
    for (Entry& entry : entries) WB_RETURN_IF_ERROR(ReadLocalHeader(entry));
    WB_RETURN_IF_ERROR(CheckRow(entries, directory.offset));
    for (const Entry& entry : entries) archive.members.push_back(entry.member);
    return archive;
  }

 private:
  // All offsets that are read here were found to be inside before.
  uint64_t Number(uint64_t at, int size) const {
    uint64_t value = 0;
    for (int i = size; i-- > 0;) {
      value = value << 8 | static_cast<uint8_t>(bytes_[at + static_cast<uint64_t>(i)]);
    }
    return value;
  }
  uint16_t U16(uint64_t at) const { return static_cast<uint16_t>(Number(at, 2)); }
  uint32_t U32(uint64_t at) const { return static_cast<uint32_t>(Number(at, 4)); }
  uint64_t U64(uint64_t at) const { return Number(at, 8); }
  std::string_view Text(uint64_t at, uint64_t size) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + at, size};
  }
  bool Inside(uint64_t at, uint64_t size) const {
    return size <= bytes_.size() && at <= bytes_.size() - size;
  }

  // The last place where an end record fits with the length of its comment.
  Result<uint64_t> FindEnd() const {
    constexpr uint64_t kLongestComment = 0xffff;
    for (uint64_t comment = 0; comment <= kLongestComment; ++comment) {
      if (bytes_.size() < kEndSize + comment) break;
      const uint64_t at = bytes_.size() - kEndSize - comment;
      if (U32(at) == kEndSignature && U16(at + 20) == comment) return at;
    }
    return Corrupt(
        "file-truncated",
        fmt::format("the zip archive of {} bytes does not end with its directory", bytes_.size()),
        where_, kTruncatedHint);
  }

  Result<Directory> ReadEnd(uint64_t end) const {
    if (U16(end + 4) != 0 || U16(end + 6) != 0) return Unsupported("consists of several files");
    if (U16(end + 8) != U16(end + 10)) return Invalid("two numbers of members in its end", end);
    Directory directory{U32(end + 16), U32(end + 12), U16(end + 10)};
    uint64_t directory_end = end;
    if (end >= kLocatorSize && U32(end - kLocatorSize) == kLocatorSignature) {
      WB_TRY(directory, ReadEnd64(end - kLocatorSize, directory, directory_end));
    }
    const auto sum = CheckedAdd(directory.offset, directory.size);
    if (!sum || *sum != directory_end) {
      return Invalid(fmt::format("its directory of {} bytes at {} does not reach to its end at {}",
                                 directory.size, directory.offset, directory_end),
                     end);
    }
    return directory;
  }

  Result<Directory> ReadEnd64(uint64_t locator, const Directory& narrow, uint64_t& begin) const {
    begin = U64(locator + 8);
    if (U32(locator + 4) != 0 || U32(locator + 16) > 1) {
      return Unsupported("consists of several files");
    }
    if (!Inside(begin, kEnd64Size) || begin > locator || U32(begin) != kEnd64Signature ||
        CheckedAdd(begin + 12, U64(begin + 4)) != locator) {
      return Invalid("no ZIP64 end where its locator points to", locator);
    }
    if (U32(begin + 16) != 0 || U32(begin + 20) != 0) {
      return Unsupported("consists of several files");
    }
    const Directory wide{U64(begin + 48), U64(begin + 40), U64(begin + 32)};
    const bool agree = (narrow.offset == kIn64 || narrow.offset == wide.offset) &&
                       (narrow.size == kIn64 || narrow.size == wide.size) &&
                       (narrow.entries == 0xffff || narrow.entries == wide.entries) &&
                       U64(begin + 24) == wide.entries;
    if (!agree) return Invalid("two ends that disagree", begin);
    return wide;
  }

  Result<std::vector<Entry>> ReadDirectory(const Directory& directory) const {
    const uint64_t end = directory.offset + directory.size;
    if (directory.entries > directory.size / kEntrySize) {
      return Invalid(
          fmt::format("a directory of {} bytes for {} members", directory.size, directory.entries),
          directory.offset);
    }
    std::vector<Entry> entries;
    entries.reserve(directory.entries);
    std::unordered_set<std::string_view> names;
    uint64_t at = directory.offset;
    for (uint64_t i = 0; i < directory.entries; ++i) {
      WB_TRY(const Entry entry, ReadEntry(at, end));
      if (!names.insert(entry.member.name).second) {
        return Invalid(fmt::format("'{}' twice", Printed(entry.member.name)), at);
      }
      entries.push_back(entry);
      at += kEntrySize + U16(at + 28) + U16(at + 30) + U16(at + 32);
    }
    if (at != end) return Invalid("a directory that holds more than its members", at);
    return entries;
  }

  Result<Entry> ReadEntry(uint64_t at, uint64_t end) const {
    if (end - at < kEntrySize || U32(at) != kEntrySignature ||
        end - at - kEntrySize < uint64_t{U16(at + 28)} + U16(at + 30) + U16(at + 32)) {
      return Invalid("an entry of its directory that is cut or none", at);
    }
    Entry entry;
    entry.member.name = Text(at + kEntrySize, U16(at + 28));
    entry.flags = U16(at + 8);
    if ((entry.flags & kEncrypted) != 0) return UnsupportedMember(entry, "encrypted");
    if (U16(at + 10) != 0) return UnsupportedMember(entry, "compressed");
    if (U16(at + 34) != 0) return Unsupported("consists of several files");
    entry.member.crc32 = U32(at + 16);
    std::array<uint64_t, 3> numbers = {U32(at + 24), U32(at + 20), U32(at + 42)};
    WB_RETURN_IF_ERROR(Widen(at + kEntrySize + U16(at + 28), U16(at + 30), numbers, at));
    if (numbers[0] != numbers[1]) return Invalid("a stored member with two sizes", at);
    entry.member.size = numbers[0];
    entry.header = numbers[2];
    return entry;
  }

  // Replaces those numbers that stand in the ZIP64 field of the extra fields.
  Status Widen(uint64_t extra, uint64_t extra_size, std::span<uint64_t> numbers,
               uint64_t entry) const {
    const auto is_wide = [](uint64_t number) { return number == kIn64; };
    if (std::none_of(numbers.begin(), numbers.end(), is_wide)) return {};
    const uint64_t end = extra + extra_size;
    while (end - extra >= 4) {
      const uint64_t size = U16(extra + 2);
      if (end - extra - 4 < size) break;
      uint64_t at = extra + 4;
      extra = at + size;
      if (U16(at - 4) != kZip64Field) continue;
      for (uint64_t& number : numbers) {
        if (!is_wide(number)) continue;
        if (extra - at < 8) return Invalid("a ZIP64 field that is too short", entry);
        number = U64(at);
        at += 8;
      }
      return {};
    }
    return {};  // exactly 0xffffffff
  }

  Status ReadLocalHeader(Entry& entry) const {
    const uint64_t at = entry.header;
    ZipMember& member = entry.member;
    if (!Inside(at, kLocalSize) || U32(at) != kLocalSignature) {
      return Invalid(fmt::format("no member '{}' where its directory says", Printed(member.name)),
                     at);
    }
    const uint64_t name_size = U16(at + 26), extra_size = U16(at + 28);
    const uint64_t extra = at + kLocalSize + name_size;
    member.offset = extra + extra_size;
    if (!Inside(member.offset, member.size)) {
      return Invalid(fmt::format("'{}' of {} bytes reaches behind the end of the file",
                                 Printed(member.name), member.size),
                     at);
    }
    if (Text(at + kLocalSize, name_size) != member.name) return Disagree(entry);
    if (U16(at + 8) != 0 || ((U16(at + 6) ^ entry.flags) & (kEncrypted | kHasDescriptor)) != 0) {
      return Disagree(entry);
    }
    if ((entry.flags & kHasDescriptor) != 0) return {};
    std::array<uint64_t, 2> sizes = {U32(at + 22), U32(at + 18)};
    WB_RETURN_IF_ERROR(Widen(extra, extra_size, sizes, at));
    const bool agree =
        sizes[0] == member.size && sizes[1] == member.size && U32(at + 14) == member.crc32;
    return agree ? Status() : Disagree(entry);
  }

  // Members and their descriptors fill the archive from its start to the directory.
  Status CheckRow(std::span<const Entry> entries, uint64_t directory) const {
    std::vector<const Entry*> row;
    for (const Entry& entry : entries) row.push_back(&entry);
    std::sort(row.begin(), row.end(),
              [](const Entry* a, const Entry* b) { return a->header < b->header; });
    const uint64_t first = row.empty() ? directory : row[0]->header;
    if (first != 0) return Invalid(fmt::format("{} bytes before its first member", first), 0);
    for (size_t i = 0; i < row.size(); ++i) {
      const uint64_t next = i + 1 < row.size() ? row[i + 1]->header : directory;
      WB_RETURN_IF_ERROR(CheckGap(*row[i], next));
    }
    return {};
  }

  Status CheckGap(const Entry& entry, uint64_t next) const {
    const ZipMember& member = entry.member;
    const uint64_t end = member.offset + member.size;
    if (end > next) {
      return Invalid(fmt::format("'{}' overlaps what follows it", Printed(member.name)),
                     entry.header);
    }
    const uint64_t gap = next - end;
    if ((entry.flags & kHasDescriptor) == 0) {
      return gap == 0 ? Status() : Invalid(fmt::format("{} bytes that are no member's", gap), end);
    }
    // A signature, the CRC and both sizes, in 32 or 64 bits. Descriptors without the signature,
    // which old writers left out, are not read: one could pass for the last bytes of a shifted
    // member.
    const int width = gap == 24 ? 8 : 4;
    if (gap != 16 && gap != 24) return Invalid("a descriptor of no known size", end);
    const bool agree = U32(end) == kDescriptorSignature && U32(end + 4) == member.crc32 &&
                       Number(end + 8, width) == member.size &&
                       Number(end + 8 + static_cast<uint64_t>(width), width) == member.size;
    return agree ? Status() : Disagree(entry);
  }

  static std::string Printed(std::string_view name) { return CutMiddle(ToPrintable(name), 80); }

  tl::unexpected<Error> Invalid(std::string has, uint64_t at) const {
    return Corrupt("header-corrupt", "the zip archive has " + has,
                   fmt::format("{}:{}", where_, at));
  }
  Status Disagree(const Entry& entry) const {
    return Invalid(
        fmt::format("a header of '{}' that its directory contradicts", Printed(entry.member.name)),
        entry.header);
  }
  tl::unexpected<Error> Unsupported(std::string_view what) const {
    return Fail(ErrorKind::kUnsupported, "unsupported-format",
                fmt::format("the zip archive {}", what), where_);
  }
  tl::unexpected<Error> UnsupportedMember(const Entry& entry, std::string_view what) const {
    return Fail(
        ErrorKind::kUnsupported, "unsupported-format",
        fmt::format("the zip archive's member '{}' is {}; torch.save stores members as they "
                    "are",
                    Printed(entry.member.name), what),
        where_, "save the file again with torch.save");
  }

  std::span<const std::byte> bytes_;
  const std::string& where_;
};

}  // namespace

Result<ZipArchive> ReadZip(std::span<const std::byte> bytes, const std::string& where) {
  return ZipReader(bytes, where).Read();
}

uint32_t Crc32(std::span<const std::byte> bytes) {
  static constexpr auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ ((value & 1) != 0 ? 0xedb88320u : 0);
      table[i] = value;
    }
    return table;
  }();
  uint32_t crc = ~0u;
  for (const std::byte byte : bytes)
    crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(byte)) & 0xff];
  return ~crc;
}

}  // namespace weighbridge
