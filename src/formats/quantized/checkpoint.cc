#include "formats/quantized/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "base/strings.h"
#include "formats/quantized/modules.h"
#include "formats/quantized/scheme.h"

namespace weighbridge {
namespace {

// Written by methods that order their codes otherwise.
constexpr std::array<std::string_view, 5> kForeign = {".qweight", ".qzeros", ".g_idx",
                                                      ".weight_g_idx", ".pre_quant_scale"};
// Of activations and of the attention's cache: no weight needs them, a copy keeps them.
constexpr std::array<std::string_view, 3> kOfInputs = {".input_scale", ".activation_scale",
                                                       ".input_global_scale"};
constexpr std::array<std::string_view, 3> kOfCache = {".k_scale", ".v_scale", ".q_scale"};
constexpr std::array<std::string_view, 7> kScaleEndings = {
    "_scale_inv",           ".weight_scale",      "_scales",      ".weight_scale_2",
    ".weight_global_scale", ".weight_zero_point", ".weight_shape"};

constexpr std::array<std::string_view, 9> kLinear = {
    ".q_proj.weight",  ".k_proj.weight",    ".v_proj.weight",
    ".o_proj.weight",  ".qkv_proj.weight",  ".gate_proj.weight",
    ".up_proj.weight", ".down_proj.weight", ".gate_up_proj.weight"};
constexpr const char* kContradictionHint =
    "config.json and the weights are of different models, or one of them was edited";

template <size_t N>
bool EndsWithAny(std::string_view name, const std::array<std::string_view, N>& endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

// Scales of activations, or of the attention's cache.
bool IsBeside(std::string_view name) {
  return EndsWithAny(name, kOfInputs) || EndsWithAny(name, kOfCache);
}

// The module of a weight or of its codes; a parameter of its own is one by itself.
std::string_view ModuleOf(std::string_view name) {
  for (const std::string_view ending : {".weight_packed", ".weight", "_blocks"}) {
    if (name.ends_with(ending)) return name.substr(0, name.size() - ending.size());
  }
  return name;
}

std::string Renamed(std::string_view name, std::string_view from, std::string_view to) {
  return std::string(name.substr(0, name.size() - from.size())).append(to);
}

// Every 8-bit float, and what is named like codes.
bool MustBeCodes(const TensorInfo& t) {
  if (t.dtype == DType::kF8E4M3 || t.dtype == DType::kF8E5M2) return true;
  const bool bytes = t.dtype == DType::kU8 || t.dtype == DType::kI8 || t.dtype == DType::kI32;
  return bytes && EndsWithAny(t.name, std::array<std::string_view, 4>{"_blocks", ".weight_packed",
                                                                      ".weight", "_proj"});
}

struct Entry {
  TensorInfo info;
  std::unique_ptr<QuantizedTensor> quantized;  // nullptr: plain
  std::unique_ptr<TensorFault> fault;
};

class View final : public Checkpoint {
 public:
  View(std::unique_ptr<Checkpoint> stored, std::vector<Entry> entries,
       std::vector<CheckpointNote> notes)
      : stored_(std::move(stored)), notes_(std::move(notes)) {
    tensors_.reserve(entries.size());
    for (Entry& e : entries) {
      if (e.quantized) quantized_[e.info.name] = std::move(e.quantized);
      if (e.fault) faults_[e.info.name] = std::move(e.fault);
      tensors_.push_back(std::move(e.info));
    }
  }

  const std::filesystem::path& path() const override { return stored_->path(); }
  std::string_view format() const override { return stored_->format(); }
  const std::vector<FileInfo>& files() const override { return stored_->files(); }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  std::span<const std::byte> Data(const TensorInfo& tensor) const override {
    return Quantized(tensor) != nullptr ? std::span<const std::byte>() : stored_->Data(tensor);
  }
  void DropBehind(const TensorInfo& tensor) const override {
    const QuantizedTensor* q = Quantized(tensor);
    if (q == nullptr) return stored_->DropBehind(tensor);
    for (const std::string& name : q->stored) {
      if (const TensorInfo* part = stored_->Find(name)) stored_->DropBehind(*part);
    }
  }
  std::vector<std::filesystem::path> extra_files() const override { return stored_->extra_files(); }
  std::vector<CheckpointNote> notes() const override { return notes_; }
  const QuantizedTensor* Quantized(const TensorInfo& tensor) const override {
    const auto it = quantized_.find(tensor.name);
    return it == quantized_.end() ? nullptr : it->second.get();
  }
  const TensorFault* Fault(const TensorInfo& tensor) const override {
    const auto it = faults_.find(tensor.name);
    return it == faults_.end() ? nullptr : it->second.get();
  }
  const Checkpoint& Stored() const override { return *stored_; }

 private:
  std::unique_ptr<Checkpoint> stored_;
  std::vector<CheckpointNote> notes_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::unique_ptr<QuantizedTensor>, std::less<>> quantized_;
  std::map<std::string, std::unique_ptr<TensorFault>, std::less<>> faults_;
};

class Matcher {
 public:
  Matcher(const Checkpoint& stored, const QuantizationConfig& config)
      : stored_(stored), config_(config), rules_(config) {}

  Result<std::vector<Entry>> Run() {
    WB_RETURN_IF_ERROR(RefuseForeign());
    for (const TensorInfo& t : stored_.tensors()) Match(t);
    WB_RETURN_IF_ERROR(std::move(refused_));
    any_codes_ = !entries_.empty();
    for (const TensorInfo& t : stored_.tensors()) KeepOthers(t);
    JudgeUnquantized();
    if (config_.cache_scales) RequireCacheScales();
    std::sort(entries_.begin(), entries_.end(),
              [](const Entry& a, const Entry& b) { return a.info.name < b.info.name; });
    for (size_t i = 1; i < entries_.size(); ++i) {
      if (entries_[i].info.name != entries_[i - 1].info.name) continue;
      return Corrupt("duplicate-name", "a weight is there both quantized and plain",
                     entries_[i].info.name, "one of the two has to go");
    }
    return std::move(entries_);
  }

  // Weights per scheme.
  const std::map<std::string_view, int64_t>& found() const { return found_; }
  std::vector<CheckpointNote> Notes() const;

 private:
  Status RefuseForeign() const {
    for (const TensorInfo& t : stored_.tensors()) {
      if (!EndsWithAny(t.name, kForeign)) continue;
      return Fail(ErrorKind::kUnsupported, "quantized",
                  "weights of GPTQ, AWQ, in an activation order or scaled by columns are not read "
                  "by this version",
                  t.name, "dequantize to bf16 first; a scale is never silently passed over");
    }
    return {};
  }

  const TensorInfo* FindScale(const QuantizationScheme& scheme, const TensorInfo& codes) const {
    for (std::string_view ending : scheme.scales) {
      if (ending.empty()) continue;
      const TensorInfo* scale = stored_.Find(Renamed(codes.name, scheme.codes, ending));
      if (scale != nullptr) return scale;
    }
    return nullptr;
  }

  void Match(const TensorInfo& codes) {
    const TensorInfo* unfit = nullptr;
    for (const QuantizationScheme& scheme : QuantizationSchemes()) {
      if (codes.dtype != scheme.stored || !codes.name.ends_with(scheme.codes)) continue;
      const TensorInfo* scale = FindScale(scheme, codes);
      if (scale == nullptr) continue;
      const auto& dtypes = scheme.scale_dtypes;
      if (std::find(dtypes.begin(), dtypes.end(), scale->dtype) == dtypes.end()) {
        unfit = scale;
        continue;
      }
      return Take(scheme, codes, *scale);
    }
    if (unfit == nullptr) return;
    used_.insert(unfit->name);
    AddFault(codes, "scale-invalid",
             fmt::format("its scale '{}' is {}, which no scheme for {} has", unfit->name,
                         ShortName(unfit->dtype), ShortName(codes.dtype)),
             "");
  }

  void AddFault(const TensorInfo& codes, std::string cause, std::string message, std::string hint) {
    used_.insert(codes.name);
    Entry entry{codes, nullptr, nullptr};
    for (std::string_view ending : {".weight_packed", ".weight"}) {
      if (!codes.name.ends_with(ending)) continue;
      // Families name the values; what belongs to them has no fault of its own.
      entry.info.name = Renamed(codes.name, ending, ".weight");
      for (std::string_view other : kScaleEndings) {
        used_.insert(Renamed(codes.name, ending, other));
      }
    }
    entry.fault = std::make_unique<TensorFault>(
        TensorFault{std::move(cause), std::move(message), std::move(hint)});
    entries_.push_back(std::move(entry));
  }

  void Take(const QuantizationScheme& scheme, const TensorInfo& codes, const TensorInfo& scale) {
    used_.insert(scale.name);
    auto q = std::make_unique<QuantizedTensor>();
    q->scheme = scheme.name;
    q->format = scheme.format;
    q->dtype = config_.dtype;
    q->stored = {codes.name, scale.name};
    q->plain_name = Renamed(codes.name, scheme.codes, scheme.plain);
    q->codes = stored_.Data(codes);
    q->scales = stored_.Data(scale);
    q->scale_dtype = scale.dtype;
    if (scale.dtype == DType::kU8) q->scale_format = ScaleFormat::kExponent;
    const ModuleRules::Choice choice = rules_.PromiseFor(ModuleOf(codes.name));
    std::string contradiction = Contradiction(scheme, codes, choice);
    if (!contradiction.empty()) return Contradict(codes, std::move(contradiction));
    static const WeightPromise kNothing;
    const bool said = choice.promise != nullptr && choice.promise->also != scheme.name;
    const WeightPromise& promise = said ? *choice.promise : kNothing;
    const auto shape = ValueShape(scheme, codes.shape);
    if (!shape) {
      return AddFault(codes, "shape-mismatch",
                      fmt::format("{} is no shape of {} codes", ToString(codes.shape), scheme.name),
                      "");
    }
    q->shape = *shape;
    q->pitch = q->columns();
    if (scheme.format == CodeFormat::kInt4Offset && !TakeStoredShape(codes, promise, *q)) return;
    if (!TakeGrid(scheme, codes, scale, promise.layout, *q)) return;
    if (!TakeGlobalScale(scheme, codes, *q) || !TakeZeroPoints(scheme, codes, promise, *q)) return;
    if (!FindActivationScale(codes, promise.activations)) return;
    Entry entry{codes, nullptr, nullptr};
    entry.info.name = Renamed(codes.name, scheme.codes, scheme.values);
    entry.info.shape = q->shape;
    entry.info.dtype = q->dtype;
    const auto nbytes = BytesFor(q->dtype, Numel(q->shape));
    if (!nbytes) {
      return AddFault(codes, "shape-mismatch", "it has more values than can be counted", "");
    }
    entry.info.nbytes = *nbytes;
    entry.quantized = std::move(q);
    used_.insert(codes.name);
    ++found_[scheme.name];
    entries_.push_back(std::move(entry));
  }

  void Contradict(const TensorInfo& codes, std::string message) {
    AddFault(codes, "quantization-config", std::move(message),
             config_.plain()
                 ? "put quantization_config back into config.json, or give a config that "
                   "has it with --config"
                 : kContradictionHint);
  }

  // What the config says otherwise of codes that are there; "" where it agrees.
  std::string Contradiction(const QuantizationScheme& scheme, const TensorInfo& codes,
                            const ModuleRules::Choice& choice) const {
    const std::string found = fmt::format("the files hold {} codes, {} {}", scheme.name,
                                          ShortName(codes.dtype), ToString(codes.shape));
    if (config_.plain()) {
      return fmt::format(
          "config.json has no quantization_config, so the codes would be taken for "
          "values; {}",
          found);
    }
    const auto plain = rules_.LeftPlain(ModuleOf(codes.name));
    if (plain) {
      return fmt::format("config.json leaves it plain ({} has '{}'), {}", config_.left_plain_key,
                         ToPrintable(*plain), found);
    }
    if (!choice.problem.empty()) return fmt::format("{}; {}", choice.problem, found);
    const WeightPromise* promise = choice.promise;
    if (promise == nullptr || promise->also == scheme.name) return "";
    if (!promise->quantized) {
      return fmt::format("{} says nothing of weights, {}", promise->where, found);
    }
    for (const SchemeClaim& claim : promise->claims) {
      if (std::find(claim.schemes.begin(), claim.schemes.end(), scheme.name) !=
          claim.schemes.end()) {
        continue;
      }
      return fmt::format("config.json says {} ({}), {}", claim.said, promise->where, found);
    }
    if (promise->codes && scheme.name == "fp8" && *promise->codes != codes.dtype) {
      return fmt::format("config.json says that the codes are {}, {}", ShortName(*promise->codes),
                         found);
    }
    return "";
  }

  bool TakeGrid(const QuantizationScheme& scheme, const TensorInfo& codes, const TensorInfo& scale,
                const ScaleLayout& layout, QuantizedTensor& q) {
    const auto grid = ResolveGrid(scheme, q.shape, scale.shape, layout);
    if (!grid) {
      AddFault(
          codes, "shape-mismatch",
          fmt::format("its scale '{}' has the shape {}, which does not fit {}{}", scale.name,
                      ToString(scale.shape), ToString(q.shape),
                      layout.said.empty() ? "" : ": config.json says " + layout.said),
          layout.said.empty() ? "" : "compare quantization_config with the shapes in the files");
      return false;
    }
    q.grid = *grid;
    const bool guessed =
        layout.kind == ScaleLayout::Kind::kUnsaid && scheme.group == 0 && IsGuessed(*grid, q.shape);
    if (!guessed) return true;
    if (IsAmbiguous(*grid, q.shape)) {
      AddFault(
          codes, "quantization-config",
          fmt::format("its scales {} over {} are of blocks of 128 or of equal ones: config.json "
                      "does not say which",
                      ToString(scale.shape), ToString(q.shape)),
          "set weight_block_size in quantization_config");
      return false;
    }
    ++guessed_[{grid->block_rows, grid->block_columns}];
    return true;
  }

  // One scale of activations is there where the config promises static ones.
  bool FindActivationScale(const TensorInfo& codes, const ActivationPromise& promise) {
    if (promise.kind == ActivationPromise::Kind::kNone)
      dynamic_.emplace(ModuleOf(codes.name), promise.said);
    if (promise.kind != ActivationPromise::Kind::kStatic) return true;
    const std::string module(ModuleOf(codes.name));
    if (module == codes.name) return true;  // stacked experts: libraries differ
    for (const std::string_view spelling : promise.spellings) {
      if (stored_.Find(fmt::format("{}.{}", module, spelling)) != nullptr) return true;
    }
    AddFault(codes, "scale-missing",
             fmt::format("'{}.{}' is not there, which config.json promises ({})", module,
                         promise.spellings[0], promise.said),
             "is a shard missing, or are the activations dynamic?");
    return false;
  }

  // weight_shape: rows and columns before they were filled up to whole int32.
  bool TakeStoredShape(const TensorInfo& codes, const WeightPromise& promise, QuantizedTensor& q) {
    const std::string name = Renamed(codes.name, "_packed", "_shape");
    const TensorInfo* info = stored_.Find(name);
    if (info == nullptr) {
      AddFault(codes, "scale-missing", fmt::format("its shape '{}' is not there", name),
               "is a shard or a part of the index missing?");
      return false;
    }
    used_.insert(info->name);
    q.stored.push_back(info->name);
    const auto bytes = stored_.Data(*info);
    const bool wide = info->dtype == DType::kI64;
    Shape shape;
    if ((wide || info->dtype == DType::kI32) && info->shape.size() == 1) {
      const size_t size = wide ? 8 : 4;
      for (size_t at = 0; at + size <= bytes.size() && shape.size() <= q.shape.size(); at += size) {
        int64_t wide_value = 0;
        int32_t value = 0;
        std::memcpy(wide ? static_cast<void*>(&wide_value) : &value, bytes.data() + at, size);
        shape.push_back(wide ? wide_value : value);
      }
    }
    if (!JudgePackedBits(codes, *info, promise, shape)) return false;
    const bool fits = shape.size() == q.shape.size() && shape.back() <= q.shape.back() &&
                      shape.back() > q.shape.back() - 8 &&
                      std::equal(shape.begin(), shape.end() - 1, q.shape.begin());
    if (!fits) {
      AddFault(codes, "shape-mismatch",
               fmt::format("'{}' says {}, the codes are {}", info->name, ToString(shape),
                           ToString(q.shape)),
               "");
      return false;
    }
    q.shape = shape;
    return true;
  }

  // Codes of another number of bits than four are refused; a config that says so of codes of four
  // is a contradiction.
  bool JudgePackedBits(const TensorInfo& codes, const TensorInfo& info,
                       const WeightPromise& promise, const Shape& shape) {
    if (!promise.packed_bits || *promise.packed_bits == 4) return true;
    const int64_t words = codes.shape.empty() ? 0 : codes.shape.back();
    const int64_t columns = shape.empty() ? 0 : shape.back();
    const bool four = columns > (words - 1) * 8 && columns <= words * 8;
    const std::string said = fmt::format("num_bits {} ({})", *promise.packed_bits, promise.where);
    if (!four) {
      refused_ = Fail(ErrorKind::kUnsupported, "quantized",
                      fmt::format("config.json says {}: packed weights of other than four bits are "
                                  "not read by this version",
                                  said),
                      codes.name, "dequantize to bf16 first");
      return false;
    }
    Contradict(codes, fmt::format("config.json says {}, the files hold four bits for each value: "
                                  "{} {} for '{}' {}",
                                  said, ShortName(codes.dtype), ToString(codes.shape), info.name,
                                  ToString(shape)));
    return false;
  }

  bool TakeGlobalScale(const QuantizationScheme& scheme, const TensorInfo& codes,
                       QuantizedTensor& q) {
    if (scheme.global_scale.empty()) return true;
    const std::string name = Renamed(codes.name, scheme.codes, scheme.global_scale);
    const TensorInfo* info = stored_.Find(name);
    if (info == nullptr) {
      AddFault(codes, "scale-missing", fmt::format("'{}' is not there", name), "");
      return false;
    }
    used_.insert(name);
    if (info->dtype != DType::kF32 || Numel(info->shape) != 1) {
      AddFault(codes, "scale-invalid",
               fmt::format("'{}' is {} {}, one float32 is expected", name, ShortName(info->dtype),
                           ToString(info->shape)),
               "");
      return false;
    }
    q.stored.push_back(name);
    q.global_scale = stored_.Data(*info);
    q.global_divides = scheme.global_divides;
    return true;
  }

  bool TakeZeroPoints(const QuantizationScheme& scheme, const TensorInfo& codes,
                      const WeightPromise& promise, QuantizedTensor& q) {
    if (scheme.format != CodeFormat::kInt4Offset) return true;
    const std::string name = Renamed(codes.name, "_packed", "_zero_point");
    const TensorInfo* info = stored_.Find(name);
    if (info == nullptr && promise.symmetric == false) {
      AddFault(codes, "scale-missing", fmt::format("its zero points '{}' are not there", name),
               "config.json says that the weights are not symmetric");
      return false;
    }
    if (info == nullptr) return true;
    used_.insert(info->name);
    if (promise.symmetric == true) {
      Contradict(codes,
                 fmt::format("config.json says that it is symmetric ({}), and its zero points "
                             "'{}' are there",
                             promise.where, info->name));
      return false;
    }
    Shape expected = q.shape;
    if (expected.size() == 2) expected = {(q.grid.rows + 7) / 8, q.grid.columns};
    if (q.shape.size() != 2 || info->dtype != DType::kI32 || info->shape != expected) {
      AddFault(codes, "scale-invalid",
               fmt::format("its zero points '{}' are {} {}, expected i32 {}", info->name,
                           ShortName(info->dtype), ToString(info->shape), ToString(expected)),
               "");
      return false;
    }
    q.stored.push_back(info->name);
    q.zero_points = stored_.Data(*info);
    return true;
  }

  // Of one number or one per head, beside a weight or, of the cache, beside its projections.
  bool BelongsToWeight(const TensorInfo& t) const {
    if (t.shape.size() > 1) return false;
    const std::string owner = t.name.substr(0, t.name.rfind('.'));
    for (const char* weight : {".weight", ".weight_packed", ".k_proj.weight",
                               ".k_proj.weight_packed", ".qkv_proj.weight"}) {
      if (stored_.Find(owner + weight) != nullptr) return true;
    }
    return false;
  }

  // What is no code of a known scheme, and belongs to none.
  void KeepOthers(const TensorInfo& t) {
    if (used_.contains(t.name)) return;
    if (IsBeside(t.name) && any_codes_ && BelongsToWeight(t)) {
      ++beside_;
      NoteUnpromised(t);
      return;
    }
    if (MustBeCodes(t)) {
      return AddFault(t, "scale-missing",
                      fmt::format("a weight of {} without a scale", ShortName(t.dtype)),
                      "is a shard or a part of the index missing? Nothing is taken for its value");
    }
    entries_.push_back({t, nullptr, nullptr});
  }

  // A scale of activations where the config says that they have none.
  void NoteUnpromised(const TensorInfo& scale) {
    std::string said = "no kv_cache_scheme";
    if (EndsWithAny(scale.name, kOfInputs)) {
      const auto dynamic = dynamic_.find(scale.name.substr(0, scale.name.rfind('.')));
      if (dynamic == dynamic_.end()) return;
      said = dynamic->second;
    } else if (config_.cache_scales || config_.method != "compressed-tensors") {
      return;
    }
    auto& [count, first] = unpromised_[said];
    if (count++ == 0) first = scale.name;
  }

  // Weights stored plain that the config does not list, of which others of the same name are
  // quantized, or that are projections of layers with quantized ones: a library would look for
  // their codes. A fault where the config's own words are read alike by all, else a note.
  void JudgeUnquantized() {
    if (config_.plain()) return;
    std::set<std::string, std::less<>> quantized, stacks;
    for (const Entry& e : entries_) {
      if (!e.quantized) continue;
      quantized.insert(WithoutNumbers(e.info.name));
      stacks.emplace(StackOf(e.info.name));
    }
    const bool exact = QuantizesEveryLinear();
    for (Entry& e : entries_) {
      const bool plain = !e.quantized && !e.fault && e.info.shape.size() >= 2;
      if (!plain) continue;
      const bool linear = exact && IsLinear(e.info.name) && stacks.contains(StackOf(e.info.name));
      if (linear || quantized.contains(WithoutNumbers(e.info.name))) JudgeUnquantized(exact, e);
    }
  }

  void JudgeUnquantized(bool exact, Entry& e) {
    const std::string_view module = ModuleOf(e.info.name);
    if (rules_.LeftPlain(module)) return;
    const ModuleRules::Choice choice = rules_.PromiseFor(module);
    if (choice.promise == nullptr || !choice.promise->quantized) return;
    if (config_.method == "fp8" && !IsWholeBlocks(choice.promise->layout, e.info.shape)) return;
    if (exact && choice.certain && !rules_.MayBeLeftPlain(module)) {
      e.fault = std::make_unique<TensorFault>(TensorFault{
          "quantization-config",
          fmt::format("{} has it quantized and no list leaves it plain, the files hold "
                      "it plain, {} {}",
                      choice.promise->where, ShortName(e.info.dtype), ToString(e.info.shape)),
          kContradictionHint});
      return;
    }
    if (unquantized_++ == 0) first_unquantized_ = e.info.name;
  }

  // transformers' writer leaves a weight as it is that its blocks do not divide
  // (integrations/finegrained_fp8.py, Fp8Quantize).
  static bool IsWholeBlocks(const ScaleLayout& layout, const Shape& shape) {
    return layout.kind != ScaleLayout::Kind::kBlocks ||
           (shape[shape.size() - 2] % layout.block[0] == 0 && shape.back() % layout.block[1] == 0);
  }

  // Others quantize some classes of modules only, or take lists that are not wholly told here.
  bool QuantizesEveryLinear() const {
    return config_.method == "compressed-tensors" || config_.method == "fp8" ||
           config_.method == "fbgemm_fp8";
  }

  // Weights that are of class Linear in every model that has them.
  static bool IsLinear(std::string_view name) { return EndsWithAny(name, kLinear); }

  // What stands before the first number: "model.layers."
  static std::string_view StackOf(std::string_view name) {
    return name.substr(0, name.find_first_of("0123456789"));
  }

  static std::string WithoutNumbers(std::string_view name) {
    std::string out;
    for (const char c : name) {
      const bool digit = c >= '0' && c <= '9';
      if (!digit) out += c;
      if (digit && (out.empty() || out.back() != '#')) out += '#';
    }
    return out;
  }

  // Scales of keys and values, beside the attention or its projections.
  void RequireCacheScales() {
    for (Entry& e : entries_) {
      for (const char* kind : {"k", "v"}) {
        const std::string_view module = ModuleOf(e.info.name);
        const std::string projection = fmt::format(".{}_proj", kind);
        if (!e.info.name.ends_with(".weight") || !module.ends_with(projection) || e.fault) continue;
        const auto attention = module.substr(0, module.size() - projection.size());
        const std::string name = fmt::format("{}.{}_scale", attention, kind);
        if (stored_.Find(name) != nullptr ||
            stored_.Find(fmt::format("{}.{}_scale", module, kind)) != nullptr) {
          continue;
        }
        e.quantized = nullptr;
        e.fault = std::make_unique<TensorFault>(TensorFault{
            "scale-missing",
            fmt::format("'{}' is not there, which config.json promises (kv_cache_scheme)", name),
            "is a shard missing?"});
      }
    }
  }

  const Checkpoint& stored_;
  const QuantizationConfig& config_;
  const ModuleRules rules_;
  Status refused_;
  std::vector<Entry> entries_;
  bool any_codes_ = false;  // usable or not
  std::set<std::string, std::less<>> used_;
  std::map<std::string_view, int64_t> found_;
  int64_t beside_ = 0, unquantized_ = 0;
  std::string first_unquantized_;
  std::map<std::array<int64_t, 2>, int64_t> guessed_;                  // blocks -> weights
  std::map<std::string, std::string, std::less<>> dynamic_;            // module -> what is said
  std::map<std::string, std::pair<int64_t, std::string>> unpromised_;  // by what is said
};

std::vector<CheckpointNote> Matcher::Notes() const {
  std::vector<CheckpointNote> notes;
  const auto add = [&](const char* id, std::string message) {
    notes.push_back({id, std::move(message)});
  };
  for (const auto& [scheme, count] : found_) {
    add("dequantized", fmt::format("{} weight(s) are stored as {} and judged by their values in {}",
                                   count, scheme, ShortName(config_.dtype)));
  }
  if (beside_ > 0) {
    add("not-needed",
        fmt::format("{} scale(s) of activations are not needed: no weight depends on them",
                    beside_));
  }
  for (const auto& [block, count] : guessed_) {
    add("quantization-config",
        fmt::format("config.json does not say how large the blocks of {} weight(s) are: {} x {} is "
                    "taken, which is 128 where that gives the number of scales, else the quotient",
                    count, block[0], block[1]));
  }
  for (const auto& [said, scales] : unpromised_) {
    add("quantization-config",
        fmt::format("{} scale(s) of activations are there, though config.json "
                    "promises none ({}); the first is {}",
                    scales.first, said, scales.second));
  }
  if (unquantized_ > 0) {
    add("quantization-config",
        fmt::format("{} weight(s) are stored plain that config.json does not leave so; the first "
                    "is {}",
                    unquantized_, first_unquantized_));
  }
  return notes;
}

bool NothingQuantized(const Checkpoint& stored) {
  return std::none_of(stored.tensors().begin(), stored.tensors().end(), [](const TensorInfo& t) {
    return MustBeCodes(t) || LooksLikeScale(t.name) || EndsWithAny(t.name, kForeign);
  });
}

}  // namespace

bool LooksLikeScale(std::string_view name) {
  return EndsWithAny(name, kScaleEndings) || IsBeside(name);
}

Result<std::unique_ptr<Checkpoint>> ShowValues(std::unique_ptr<Checkpoint> stored,
                                               const QuantizationConfig& config) {
  if (config.plain() && NothingQuantized(*stored)) return stored;
  Matcher matcher(*stored, config);
  WB_TRY(std::vector<Entry> entries, matcher.Run());
  const bool faulty = std::any_of(entries.begin(), entries.end(),
                                  [](const Entry& e) { return e.fault != nullptr; });
  if (matcher.found().empty() && !faulty) {
    if (config.plain()) return stored;
    return Corrupt("quantization-config",
                   fmt::format("the config says that the weights are quantized ({}), and none is",
                               config.method),
                   "config.json: quantization_config",
                   "take quantization_config out of a config of plain weights");
  }
  std::vector<CheckpointNote> notes = stored->notes();
  const std::vector<CheckpointNote> more = matcher.Notes();
  notes.insert(notes.end(), more.begin(), more.end());
  return std::make_unique<View>(std::move(stored), std::move(entries), std::move(notes));
}

}  // namespace weighbridge
