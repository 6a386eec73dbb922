#include "formats/torch_file/torch_file.h"

#include <fmt/format.h>

#include "base/hash.h"
#include "base/strings.h"
#include "formats/safetensors/foreign.h"
#include "formats/torch_file/archive.h"

namespace weighbridge {
namespace {

constexpr std::string_view kPickle = "/data.pkl";

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

tl::unexpected<Error> Unsupported(std::string what, const std::string& where, std::string hint) {
  return Fail(ErrorKind::kUnsupported, "unsupported-format", std::move(what), where,
              std::move(hint));
}

// What the file is when it does not begin like a zip archive.
tl::unexpected<Error> DescribeOther(std::span<const std::byte> bytes, const std::string& where) {
  // The magic number that the pickle of torch < 1.6 begins with (torch/serialization.py).
  constexpr std::string_view kLegacy =
      "\x80\x02\x8a\x0al\xfc\x9c"
      "F\xf9 j\xa8P\x19.";
  if (AsText(bytes).starts_with(kLegacy)) {
    return Unsupported("the file is in the format of torch before 1.6", where,
                       "load it with torch and save it again");
  }
  if (const auto foreign = DescribeForeignFile(bytes)) {
    return Corrupt(foreign->id, foreign->what, where + ":0", foreign->hint);
  }
  if (bytes[0] == std::byte{0x80}) {
    return Unsupported("the file is a plain pickle, not one of torch.save", where,
                       "load it with Python and save it with torch.save");
  }
  return Corrupt("header-corrupt", "the file does not begin like a zip archive of torch.save",
                 where + ":0");
}

// "archive/" of the only member "archive/data.pkl".
Result<std::string_view> FindFolder(const ZipArchive& zip, const std::string& where) {
  std::string_view folder;
  for (const ZipMember& member : zip.members) {
    if (!member.name.ends_with(kPickle)) continue;
    const auto candidate = member.name.substr(0, member.name.size() - kPickle.size() + 1);
    if (candidate.find('/') != candidate.size() - 1) continue;
    if (!folder.empty()) return Corrupt("header-corrupt", "the archive has two data.pkl", where);
    folder = candidate;
  }
  if (!folder.empty()) return folder;
  return Corrupt("header-corrupt", "the zip archive has no data.pkl: torch.save did not write it",
                 where);
}

}  // namespace

Result<TorchFile> TorchFile::Open(std::span<const std::byte> bytes, const std::string& where) {
  if (bytes.empty()) return Corrupt("file-truncated", "the file is empty", where, kFetchAgainHint);
  if (!AsText(bytes).starts_with("PK\x03\x04")) return DescribeOther(bytes, where);
  auto rep = std::make_unique<Rep>();
  rep->bytes = bytes;
  rep->where = where;
  WB_TRY(rep->zip, ReadZip(bytes, where));
  WB_TRY(rep->folder, FindFolder(rep->zip, where));
  for (const ZipMember& member : rep->zip.members) {
    if (!member.name.starts_with(rep->folder)) continue;
    rep->members.emplace(member.name.substr(rep->folder.size()), &member);
  }
  if (rep->Find("constants.pkl") != nullptr) {
    return Unsupported("the file is a TorchScript program, not a state dict", where,
                       "save the module's state_dict() with torch.save");
  }
  const ZipMember* order = rep->Find("byteorder");
  if (order != nullptr && AsText(rep->Content(*order)) != "little") {
    return Unsupported(fmt::format("the byte order is '{}', only little is read",
                                   ToPrintable(AsText(rep->Content(*order)).substr(0, 20))),
                       where, "load it with torch and save it again on a little-endian machine");
  }
  const ZipMember& pickle = *rep->Find(kPickle.substr(1));
  // torch.serialization.set_crc32_options(False) writes 0.
  if (pickle.crc32 != 0 && pickle.crc32 != Crc32(rep->Content(pickle))) {
    return Corrupt("header-corrupt", "the checksum of data.pkl is wrong",
                   fmt::format("{}:{}", where, pickle.offset), kFetchAgainHint);
  }
  WB_TRY(rep->document,
         pickle::Document::Read(rep->Content(pickle),
                                fmt::format("{}:{}", where, ToPrintable(pickle.name)),
                                {.allowed = pickle::TorchGlobals}));
  return TorchFile(std::move(rep));
}

std::string TorchFile::LayoutHash() const {
  Xxh3Stream hash;
  hash.Update(rep_->Content(*rep_->Find(kPickle.substr(1))));
  hash.Update(rep_->zip.directory);
  return hash.Hex();
}

pickle::Value TorchFile::root() const { return rep_->document->root(); }
std::span<const std::byte> TorchFile::bytes() const { return rep_->bytes; }

TorchFile::TorchFile(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
TorchFile::TorchFile(TorchFile&&) noexcept = default;
TorchFile& TorchFile::operator=(TorchFile&&) noexcept = default;
TorchFile::~TorchFile() = default;

}  // namespace weighbridge
