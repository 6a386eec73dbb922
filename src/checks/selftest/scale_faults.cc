#include "checks/selftest/scale_faults.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>

#include "checks/selftest/shard.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kFp8Block = 16, kInt4Group = 8, kCodesPerWord = 8;

bool IsCoded(const std::string& name, const ordered_json& entry) {
  const auto& shape = entry["shape"];
  return name.find("layers.") != std::string::npos && name.ends_with("_proj.weight") &&
         entry["dtype"] == "BF16" && shape.size() == 2 &&
         shape[1].get<int64_t>() % kCodesPerWord == 0;
}

std::string Module(const std::string& weight) {
  return weight.substr(0, weight.size() - std::string_view(".weight").size());
}

// "model.layers.#.mlp.up_proj.weight"
std::string Kind(const std::string& name) {
  std::string out;
  for (const char c : name) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit || out.empty() || out.back() != '#') out += digit ? '#' : c;
  }
  return out;
}

// Numbers in a name: of the layer, of the expert.
std::vector<std::string> Numbers(const std::string& name) {
  std::vector<std::string> out;
  bool inside = false;
  for (const char c : name) {
    const bool digit = c >= '0' && c <= '9';
    if (digit && !inside) out.emplace_back();
    if (digit) out.back() += c;
    inside = digit;
  }
  return out;
}

// The same matrix of another layer, or of another expert of this layer.
bool IsSibling(const std::string& a, const std::string& b) {
  if (a == b || Kind(a) != Kind(b)) return false;
  const auto x = Numbers(a), y = Numbers(b);
  int differ = 0;
  for (size_t i = 0; i < x.size(); ++i) differ += x[i] != y[i];
  return differ == 1;
}

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  std::string out(values.size() * sizeof(T), '\0');
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

std::string Bf16Bytes(const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (const float value : values) {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    halves.push_back(static_cast<uint16_t>(bits >> 16));
  }
  return Bytes(halves);
}

// The lowest nibble of an int32 first.
std::string PackedBytes(const CodedMatrix& m) {
  std::vector<uint32_t> words(m.codes.size() / kCodesPerWord);
  for (size_t i = 0; i < m.codes.size(); ++i) {
    words[i / kCodesPerWord] |= static_cast<uint32_t>(m.codes[i]) << (4 * (i % kCodesPerWord));
  }
  return Bytes(words);
}

CodedMatrix RandomMatrix(CodeScheme scheme, const std::string& name, const ordered_json& entry,
                         Random& random) {
  CodedMatrix m;
  m.name = name;
  m.rows = entry["shape"][0];
  m.columns = entry["shape"][1];
  const bool fp8 = scheme == CodeScheme::kFp8Blocks;
  m.block = fp8 ? std::array{kFp8Block, kFp8Block} : std::array{int64_t{1}, kInt4Group};
  for (int64_t i = 0; i < m.rows * m.columns; ++i) {
    auto code = static_cast<uint8_t>(Pick(random, fp8 ? 256 : 16));
    if (fp8 && (code & 0x7f) == 0x7f) code = 0;  // NaN
    m.codes.push_back(code);
  }
  const int64_t blocks = (m.rows + m.block[0] - 1) / m.block[0] * m.block_columns();
  for (int64_t i = 0; i < blocks; ++i) {
    // A number of bf16 between 1/128 and 1/32.
    m.scales.push_back(std::ldexp(static_cast<float>(128 + Pick(random, 128)),
                                  static_cast<int>(-14 - Pick(random, 2))));
  }
  return m;
}

void AddCoded(CodeScheme scheme, const CodedMatrix& m, Shard& shard) {
  const std::string module = Module(m.name);
  const int64_t grid_rows = (m.rows + m.block[0] - 1) / m.block[0];
  const std::vector<int64_t> grid = {grid_rows, m.block_columns()};
  if (scheme == CodeScheme::kFp8Blocks) {
    shard.Add(m.name, "F8_E4M3", {m.rows, m.columns}, Bytes(m.codes));
    shard.Add(m.name + "_scale_inv", "F32", grid, Bytes(m.scales));
    return;
  }
  shard.Add(module + ".weight_packed", "I32", {m.rows, m.columns / kCodesPerWord}, PackedBytes(m));
  shard.Add(module + ".weight_scale", "BF16", grid, Bf16Bytes(m.scales));
  shard.Add(module + ".weight_shape", "I64", {2}, Bytes(std::vector<int64_t>{m.rows, m.columns}));
}

ordered_json QuantizationTable(CodeScheme scheme, const std::vector<std::string>& plain) {
  if (scheme == CodeScheme::kFp8Blocks) {
    return {{"quant_method", "fp8"},
            {"weight_block_size", {kFp8Block, kFp8Block}},
            {"modules_to_not_convert", plain}};
  }
  const ordered_json weights = {{"num_bits", 4},
                                {"type", "int"},
                                {"symmetric", true},
                                {"strategy", "group"},
                                {"group_size", kInt4Group}};
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}},
          {"ignore", plain}};
}

// An index of the shards in `folder`, and the config of `source` with `quantization` unless null.
void WriteBeside(const fs::path& source, const std::vector<Shard>& shards,
                 const ordered_json& quantization, const fs::path& folder) {
  ordered_json map = ordered_json::object();
  for (const Shard& shard : shards) {
    for (const std::string& name : shard.Names()) map[name] = shard.path.filename().string();
    shard.Save();
  }
  if (shards.size() > 1) {
    WriteFile(folder / "model.safetensors.index.json",
              ordered_json{{"metadata", ordered_json::object()}, {"weight_map", map}}.dump());
  }
  ordered_json config = ordered_json::parse(ReadFile(source / "config.json"));
  if (!quantization.is_null()) config["quantization_config"] = quantization;
  WriteFile(folder / "config.json", config.dump());
}

// The shards of `source` once more in `folder`, in which `add` puts something else for each of the
// tensors that `takes`.
std::vector<Shard> Rewritten(const fs::path& source, const fs::path& folder,
                             const std::function<bool(const std::string&, const Shard&)>& takes,
                             const std::function<void(const std::string&, Shard&)>& add) {
  std::error_code error;
  fs::create_directories(folder, error);
  std::vector<Shard> shards;
  for (const fs::path& path : FilesWith(source, ".safetensors")) {
    const Shard old = Shard::Load(path);
    Shard shard;
    shard.path = folder / path.filename();
    for (const std::string& name : old.Names()) {
      if (takes(name, old)) {
        add(name, shard);
      } else {
        shard.Add(name, old.header[name]["dtype"], old.header[name]["shape"], old.BytesOf(name));
      }
    }
    shards.push_back(std::move(shard));
  }
  return shards;
}

HeldTensor Empty(const CodedMatrix& m) {
  return {DType::kBF16,
          {m.rows, m.columns},
          std::vector<std::byte>(static_cast<size_t>(m.rows * m.columns) * 2)};
}

}  // namespace

std::optional<CodedModel> CodedModel::Write(CodeScheme scheme, const fs::path& source,
                                            const fs::path& folder, Random& random) {
  CodedModel model;
  model.scheme_ = scheme;
  model.source_ = source;
  std::vector<std::string> plain;
  const auto takes = [&](const std::string& name, const Shard& shard) {
    if (IsCoded(name, shard.header[name])) {
      model.matrices_.push_back(RandomMatrix(scheme, name, shard.header[name], random));
      return true;
    }
    if (name.ends_with(".weight") && shard.header[name]["shape"].size() >= 2) {
      plain.push_back(Module(name));
    }
    return false;
  };
  const auto shards = Rewritten(source, folder, takes, [&](const std::string&, Shard& shard) {
    AddCoded(scheme, model.matrices_.back(), shard);
  });
  if (model.matrices_.empty()) return std::nullopt;
  WriteBeside(source, shards, QuantizationTable(scheme, plain), folder);
  return model;
}

double CodedModel::Meaning(uint8_t code) const {
  if (scheme_ == CodeScheme::kInt4) return static_cast<int>(code) - 8;
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const double size =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code & 0x80) != 0 ? -size : size;
}

HeldTensor CodedModel::ValuesOf(const CodedMatrix& m) const {
  HeldTensor out = Empty(m);
  for (int64_t e = 0; e < out.numel(); ++e) {
    const auto scale = m.scales[static_cast<size_t>(m.BlockOf(e / m.columns, e % m.columns))];
    out.SetValue(e, static_cast<float>(Meaning(m.codes[static_cast<size_t>(e)])) * scale);
  }
  return out;
}

CodedValues CodedModel::Values() const {
  CodedValues out;
  for (const CodedMatrix& m : matrices_) out.push_back(ValuesOf(m));
  return out;
}

void CodedModel::WritePlain(const CodedValues& values, const fs::path& folder) const {
  std::map<std::string, const HeldTensor*> by_name;
  for (size_t i = 0; i < matrices_.size(); ++i) by_name[matrices_[i].name] = &values[i];
  const auto shards = Rewritten(
      source_, folder,
      [&](const std::string& name, const Shard&) { return by_name.contains(name); },
      [&](const std::string& name, Shard& shard) {
        const HeldTensor& t = *by_name.at(name);
        std::string bytes(t.bytes.size(), '\0');
        std::memcpy(bytes.data(), t.bytes.data(), bytes.size());
        shard.Add(name, "BF16", t.shape, bytes);
      });
  WriteBeside(source_, shards, nullptr, folder);
}

std::vector<std::string_view> CodedModel::AllCauses() {
  return {"nibble-order", "scale-ignored", "scale-inverted", "scale-misaligned"};
}

std::vector<std::string_view> CodedModel::Causes() const {
  auto causes = AllCauses();
  if (scheme_ == CodeScheme::kFp8Blocks) causes.erase(causes.begin());
  return causes;
}

// `way` chooses among those of a cause.
std::optional<HeldTensor> CodedModel::WrongValues(std::string_view cause, size_t at,
                                                  int64_t way) const {
  CodedMatrix m = matrices_[at];
  HeldTensor out = Empty(m);
  const auto scale_of = [&](int64_t e) {
    return m.scales[static_cast<size_t>(m.BlockOf(e / m.columns, e % m.columns))];
  };
  const auto meaning = [&](int64_t e) {
    return static_cast<float>(Meaning(m.codes[static_cast<size_t>(e)]));
  };
  if (cause == "scale-ignored") {
    for (int64_t e = 0; e < out.numel(); ++e) out.SetValue(e, meaning(e));
  } else if (cause == "scale-inverted") {
    for (int64_t e = 0; e < out.numel(); ++e) out.SetValue(e, meaning(e) / scale_of(e));
  } else if (cause == "nibble-order") {
    // In each byte the high one first, or the eight of a word backwards.
    for (size_t i = 0; i < m.codes.size(); ++i) {
      const size_t in_word = i % kCodesPerWord;
      const size_t from = way % 2 == 0 ? in_word ^ 1 : kCodesPerWord - 1 - in_word;
      m.codes[i] = matrices_[at].codes[i - in_word + from];
    }
    out = ValuesOf(m);
  } else if (way % 2 == 0) {
    std::rotate(m.scales.begin(), m.scales.begin() + 1, m.scales.end());
    out = ValuesOf(m);
  } else {
    const auto other = std::find_if(matrices_.begin(), matrices_.end(), [&](const CodedMatrix& o) {
      return IsSibling(o.name, m.name) && o.scales.size() == m.scales.size();
    });
    if (other == matrices_.end()) return std::nullopt;
    m.scales = other->scales;
    out = ValuesOf(m);
  }
  return out;
}

std::optional<std::string> CodedModel::Inject(std::string_view cause, CodedValues& values,
                                              Random& random) const {
  const auto known = Causes();
  if (std::find(known.begin(), known.end(), cause) == known.end()) return std::nullopt;
  const auto at = static_cast<size_t>(Pick(random, std::ssize(matrices_)));
  const bool all = Pick(random, 2) == 0;
  const int64_t way = Pick(random, 2);
  bool done = false;
  for (size_t i = 0; i < matrices_.size(); ++i) {
    if (i != at && !(all && Kind(matrices_[i].name) == Kind(matrices_[at].name))) continue;
    const auto wrong = WrongValues(cause, i, way);
    if (!wrong || *wrong == values[i]) continue;
    values[i] = *wrong;
    done = true;
  }
  if (!done) return std::nullopt;
  return fmt::format("{}, way {}", all ? Kind(matrices_[at].name) : matrices_[at].name, way);
}

}  // namespace weighbridge
