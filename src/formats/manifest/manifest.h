// A manifest: the tensors of a model by their Hugging Face names, each with the hash of its values,
// so that checkpoints in two places are compared without moving them. It says nothing of where and
// when it was made: equal models have equal files. docs/manifest.schema.json describes it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "tensor/tensor.h"

namespace weighbridge {

inline constexpr char kManifestSchema[] = "weighbridge.manifest/1";

// The values of a tensor in one dtype: XXH3-128 of their contiguous little-endian bytes.
struct ManifestEntry {
  DType dtype = DType::kF32;
  Xxh3Digest xxh3;
  bool operator==(const ManifestEntry&) const = default;
};

// A tensor of the files that belongs to a quantized weight: its codes, a scale.
struct ManifestStored {
  std::string name;
  DType dtype = DType::kF8E4M3;
  Shape shape;
  Xxh3Digest xxh3;  // of its bytes
  bool operator==(const ManifestStored&) const = default;
};

struct ManifestTensor {
  std::string name;
  Shape shape;
  // Never empty; the narrowest dtype first. All hold the same values.
  std::vector<ManifestEntry> entries;
  // Of a weight that is stored quantized: how ("fp8"), and what it is made of, the codes first. The
  // entries are of the values that it stands for.
  std::string scheme;
  std::vector<ManifestStored> stored;
  bool operator==(const ManifestTensor&) const = default;
};

// Tensors that the model may have and that are not listed.
struct ManifestGap {
  std::string pattern;  // "vision_tower.*", for GlobMatch
  std::string why;
  bool operator==(const ManifestGap&) const = default;
};

struct Manifest {
  std::string family;
  std::vector<ManifestTensor> tensors;  // sorted by name; names are unique
  std::vector<ManifestGap> not_held;    // of the model, whichever checkpoint was hashed
  bool operator==(const Manifest&) const = default;
};

// Writes the document, one tensor per line, ending in a newline. The same manifest gives the same
// bytes.
void WriteManifest(const Manifest& manifest, const std::function<void(std::string_view)>& sink);

// Parses a document. `text` is a part of `mapping`; `name` is what messages call it. Keys that are
// not known are passed over. Errors, kInvalid "manifest-invalid" with the place: no JSON, another
// schema, no tensors, a name twice, a dtype or hash that is none, a shape that no tensor has.
Result<Manifest> ParseManifest(std::span<const std::byte> text, std::span<const std::byte> mapping,
                               const std::string& name);

// Reads a file. Errors: those of MappedFile::Open and ParseManifest; kUnsupported above
// kMaxManifestBytes.
inline constexpr uint64_t kMaxManifestBytes = uint64_t{1} << 30;
Result<Manifest> ReadManifest(const std::filesystem::path& path);

}  // namespace weighbridge
