#include "checks/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "base/memory.h"
#include "base/threads.h"
#include "checks/copies.h"
#include "checks/diagnose/explain.h"
#include "checks/effect_check.h"
#include "checks/inventory.h"
#include "checks/megatron_binding.h"
#include "checks/megatron_config_check.h"
#include "checks/parameter_plan.h"
#include "checks/rank_copies.h"
#include "checks/repadded.h"
#include "checks/scales.h"
#include "checks/shard_row.h"
#include "checks/verify_ranks.h"
#include "tensor/compare.h"
#include "tensor/float_bits.h"

namespace weighbridge {
namespace {

constexpr int64_t kMaxBlockElements = 64 << 10;
constexpr int64_t kPieceElements = 4 << 20;  // what a thread takes at a time
constexpr int64_t kLargestElement = 8;       // bytes

// The figures of a parameter that differs, and where it first does.
struct Measured {
  Metrics metrics;
  std::optional<int64_t> element;  // of the parameter
  size_t chunk = 0;                // the same, in the part of a chunk
  int64_t in_chunk = 0;
  std::string expected, actual;
};

// A parameter under comparison.
struct Subject {
  const BoundParameter* bound = nullptr;
  std::optional<ParameterPlan> plan;
  std::vector<Plan> boxes;                       // per chunk
  std::vector<std::span<const std::byte>> data;  // per chunk: the parameter's part
  std::atomic<bool> differs{false};
  std::atomic<int64_t> padding_not_zero{0};
  std::optional<Measured> measured;  // once it differs
};

// Elements [begin, end) of one chunk's part.
struct Piece {
  Subject* subject = nullptr;
  size_t chunk = 0;
  int64_t begin = 0, end = 0;
};

std::span<const std::byte> Elements(std::span<const std::byte> bytes, DType dtype, int64_t begin,
                                    int64_t count) {
  const auto size = static_cast<size_t>(BitsOf(dtype) / 8);
  return bytes.subspan(static_cast<size_t>(begin) * size, static_cast<size_t>(count) * size);
}

std::string BitsText(DType dtype, std::span<const std::byte> bytes, int64_t element) {
  return FormatBits(dtype, RawBits(dtype, bytes.data(), static_cast<size_t>(element)));
}

class Verifier {
 public:
  Verifier(const Model& model, const Checkpoint& hf, const MegatronCheckpoint& megatron,
           const VerifyOptions& options)
      : model_(model),
        hf_(hf),
        megatron_(megatron),
        options_(options),
        budget_(DivideMemory(options.memory_bytes, options.threads, 2,
                             kMaxBlockElements * kLargestElement)),
        block_elements_(budget_.bytes / kLargestElement) {}

  Result<Report> Judge() {
    WB_TRY(const Inventory inventory, TakeInventory(model_, hf_));
    binding_ = BindMegatron(model_, megatron_.metadata(), options_.without_mtp);
    Take(inventory);
    sources_ = inventory.usable;
    const std::set<const Parameter*> usable(inventory.usable.begin(), inventory.usable.end());
    for (const BoundParameter& b : binding_.bound) {
      if (!usable.contains(b.parameter)) continue;  // the inventory has its row
      subjects_.push_back(std::make_unique<Subject>());
      subjects_.back()->bound = &b;
    }
    if (!options_.headers_only) {
      WB_TRY(scales_, JudgeScales(hf_, Threads()));
      for (Cause& cause : scales_.causes) AddCause(std::move(cause), report_);
      for (Note& note : scales_.notes) report_.notes.push_back(std::move(note));
    }
    if (options_.ranks != nullptr) {
      WB_RETURN_IF_ERROR(JudgeAllRanks());
    } else {
      WB_RETURN_IF_ERROR(JudgeGlobal());
    }
    WB_RETURN_IF_ERROR(CompareTiedCopy());
    if (Rank() == 0) JudgeHfCopies(inventory);
    if (!options_.headers_only) WB_RETURN_IF_ERROR(CompareRankCopies());
    Finish();
    WB_RETURN_IF_ERROR(JudgeMegatronConfig());
    return std::move(report_);
  }

 private:
  void Take(const Inventory& inventory) {
    report_.command = "verify";
    report_.level = options_.headers_only ? "L0" : "L1";
    TakeRows(inventory);
    report_.causes = inventory.causes;
    report_.notes = inventory.notes;
    // First: their messages name the rank.
    for (const RankFault& fault : megatron_.faults()) {
      AddCause({fault.id,
                Proof::kStructural,
                Origin::kCheckpoint,
                {fault.where},
                fault.message,
                fault.message,
                ""},
               report_);
    }
    for (Cause& cause : binding_.causes) AddCause(std::move(cause), report_);
    for (Cause& cause : binding_.mixed_names) AddCause(std::move(cause), report_);
    for (Note& note : binding_.notes) report_.notes.push_back(std::move(note));
    for (const CheckpointNote& note : hf_.notes()) {
      report_.notes.push_back({note.id, note.message});
    }
  }

  // One row per parameter: what either side lacks; then what only one side has.
  void TakeRows(const Inventory& inventory) {
    std::map<std::string, const ResultRow*> by_hf_name;
    for (const ResultRow& row : inventory.rows) by_hf_name[row.hf[0].name] = &row;
    std::set<std::string> in_binding, of_parameters;
    for (ResultRow& row : binding_.rows) {
      in_binding.insert(row.megatron.name);
      report_.results.push_back(std::move(row));
    }
    for (const Parameter& p : model_.parameters()) {
      of_parameters.insert(p.hf.begin(), p.hf.end());
      ResultRow row;
      for (const std::string& name : p.hf) {
        const auto it = by_hf_name.find(name);
        if (it == by_hf_name.end()) continue;
        if (row.hf.empty()) row = *it->second;
        if (it->second->status == RowStatus::kMissing) row.status = RowStatus::kMissing;
      }
      if (row.hf.empty()) continue;
      row.megatron = {model_.MegatronName(p, Dialect::kTe), p.shape, std::nullopt};
      if (!in_binding.contains(row.megatron.name)) report_.results.push_back(std::move(row));
    }
    for (const ResultRow& row : inventory.rows) {
      if (!of_parameters.contains(row.hf[0].name)) report_.results.push_back(row);
    }
  }

  CastRule Cast() const { return {options_.headers_only, options_.expect_dtype}; }

  // One row per parameter.
  Status JudgeGlobal() {
    if (!options_.headers_only) {
      WB_RETURN_IF_ERROR(CompareAll());
      WB_RETURN_IF_ERROR(Diagnose());
    }
    for (const auto& subject : subjects_) {
      WB_TRY(ResultRow row, RowOf(*subject));
      report_.results.push_back(std::move(row));
    }
    for (Cause& cause : diagnosis_.causes) AddCause(std::move(cause), report_);
    return {};
  }

  // What explains the tensors that differ.
  Status Diagnose() {
    if (Rank() != 0) return {};
    std::vector<const Parameter*> usable, differ;
    for (const auto& subject : subjects_) {
      usable.push_back(subject->bound->parameter);
      if (subject->differs) differ.push_back(usable.back());
    }
    if (differ.empty()) return {};
    WB_TRY(diagnosis_, ExplainDifferences({model_, hf_, megatron_, binding_, sources_,
                                           std::move(usable), std::move(differ)},
                                          Threads()));
    return {};
  }

  // One row per parameter and rank.
  Status JudgeAllRanks() {
    const RankCut& cut = *options_.ranks;
    WB_TRY(const Placement placement, Placement::Create(*cut.model, cut.grid));
    const auto stored = MegatronParameters::OfBound(megatron_, binding_);
    WB_TRY(const auto source, RepaddedParameters::Create(model_, stored, *cut.model));
    std::set<const Parameter*> bound;
    for (const auto& subject : subjects_) bound.insert(subject->bound->parameter);
    std::vector<const Parameter*> there;
    for (const Parameter& p : cut.model->parameters()) {
      if (bound.contains(&source.Stored(p))) there.push_back(&p);
    }
    WB_TRY(JudgedRanks judged, JudgeRanks(*cut.model, placement, hf_, source, there,
                                          {false, cut.dialect, Cast(), options_.strict_padding,
                                           Threads(), options_.progress}));
    for (ResultRow& row : judged.rows) TakeScaleFaults(scales_, row);
    AddRanks(std::move(judged), report_);
    report_.details.emplace_back("grid", ToString(placement.grid()));
    for (const GridNote& note : placement.notes()) {
      report_.notes.push_back({note.id, note.message});
    }
    return {};
  }

  int Threads() const { return budget_.threads; }
  int Rank() const { return options_.coordinator != nullptr ? options_.coordinator->rank() : 0; }
  int Ranks() const { return options_.coordinator != nullptr ? options_.coordinator->size() : 1; }
  Status Proceed() const { return Ranks() > 1 ? options_.coordinator->Check() : Status(); }

  Status CompareAll() {
    WB_RETURN_IF_ERROR(TryParallelFor(subjects_.size(), Threads(),
                                      [&](size_t i) { return Prepare(*subjects_[i]); }));
    std::vector<Piece> pieces;
    for (const auto& subject : subjects_) Split(*subject, pieces);
    const auto [begin, end] = Share(pieces);
    WB_RETURN_IF_ERROR(TryParallelFor(end - begin, Threads(),
                                      [&](size_t i) { return Compare(pieces[begin + i]); }));
    if (Ranks() > 1) WB_RETURN_IF_ERROR(ExchangeFound());
    std::vector<Subject*> differing;
    for (const auto& subject : subjects_) {
      if (subject->differs) differing.push_back(subject.get());
    }
    for (size_t i = 0; i < differing.size(); ++i) {
      if (static_cast<int>(i % static_cast<size_t>(Ranks())) != Rank()) continue;
      WB_RETURN_IF_ERROR(Measure(*differing[i]));
    }
    return Ranks() > 1 ? ExchangeMeasured() : Status();
  }

  // This rank's pieces [begin, end): neighbours, with its part of all bytes.
  std::pair<size_t, size_t> Share(const std::vector<Piece>& pieces) const {
    std::vector<int64_t> ends;
    int64_t total = 0;
    for (const Piece& p : pieces) {
      total += (p.end - p.begin) * BitsOf(p.subject->bound->tensor->dtype) / 8;
      ends.push_back(total);
    }
    // Without a product that could overflow.
    const auto cut = [&](int rank) {
      const int64_t at = total / Ranks() * rank + total % Ranks() * rank / Ranks();
      return static_cast<size_t>(std::lower_bound(ends.begin(), ends.end(), at) - ends.begin());
    };
    const size_t begin = Rank() == 0 ? 0 : cut(Rank()) + 1;
    const size_t end = Rank() + 1 == Ranks() ? pieces.size() : cut(Rank() + 1) + 1;
    return {std::min(begin, pieces.size()), std::min(std::max(begin, end), pieces.size())};
  }

  // What all ranks found, on all of them.
  Status ExchangeFound() {
    WB_TRY(const auto parts, options_.coordinator->Gather(FoundText()));
    for (size_t r = 1; r < parts.size(); ++r) WB_RETURN_IF_ERROR(AddFound(parts[r]));
    WB_TRY(const std::string all, options_.coordinator->Broadcast(FoundText()));
    if (Rank() == 0) return {};
    for (const auto& subject : subjects_) subject->padding_not_zero = 0;
    return AddFound(all);
  }

  std::string FoundText() const {
    nlohmann::json found = nlohmann::json::array();
    for (size_t i = 0; i < subjects_.size(); ++i) {
      const bool differs = subjects_[i]->differs;
      const int64_t padding = subjects_[i]->padding_not_zero;
      if (differs || padding != 0) found.push_back({i, differs, padding});
    }
    return found.dump();
  }

  Status AddFound(const std::string& text) {
    return FromRank(text, [&](const nlohmann::json& row) {
      Subject& subject = *subjects_.at(row.at(0).get<size_t>());
      if (row.at(1).get<bool>()) subject.differs = true;
      subject.padding_not_zero += row.at(2).get<int64_t>();
    });
  }

  // The figures of all ranks, on rank 0, which reports them.
  Status ExchangeMeasured() {
    nlohmann::json mine = nlohmann::json::array();
    for (size_t i = 0; i < subjects_.size(); ++i) {
      if (!subjects_[i]->measured) continue;
      const Measured& m = *subjects_[i]->measured;
      const auto bits = [](double value) { return std::bit_cast<uint64_t>(value); };
      mine.push_back({i, bits(m.metrics.max_diff), bits(m.metrics.mean_diff),
                      bits(m.metrics.cosine), bits(m.metrics.max_relative), m.metrics.max_ulp,
                      m.metrics.mismatched, m.metrics.nan_count, m.metrics.inf_count,
                      m.element.value_or(-1), m.chunk, m.in_chunk, m.expected, m.actual});
    }
    WB_TRY(const auto parts, options_.coordinator->Gather(mine.dump()));
    for (size_t r = 1; r < parts.size(); ++r) {
      WB_RETURN_IF_ERROR(FromRank(parts[r], [&](const nlohmann::json& row) {
        const auto number = [&](size_t at) {
          return std::bit_cast<double>(row.at(at).get<uint64_t>());
        };
        const int64_t element = row.at(9).get<int64_t>();
        Measured m;
        m.metrics = {number(1), number(2), number(3), number(4),
                     row.at(5), row.at(6), row.at(7), row.at(8)};
        m.chunk = row.at(10);
        m.in_chunk = row.at(11);
        m.expected = row.at(12);
        m.actual = row.at(13);
        if (element >= 0) m.element = element;
        subjects_.at(row.at(0).get<size_t>())->measured = std::move(m);
      }));
    }
    return {};
  }

  // Calls take(row) for each row that another rank sent.
  template <typename Take>
  static Status FromRank(const std::string& text, const Take& take) {
    try {
      for (const nlohmann::json& row : nlohmann::json::parse(text)) take(row);
      return {};
    } catch (const std::exception& e) {
      return Fail(ErrorKind::kInternal, "internal",
                  fmt::format("what another rank sent cannot be read: {}", e.what()));
    }
  }

  Status Prepare(Subject& subject) const {
    const BoundParameter& b = *subject.bound;
    WB_TRY(ParameterPlan plan, ParameterPlan::Create(model_, *b.parameter, hf_));
    for (const BoundChunk& chunk : b.chunks) {
      WB_TRY(Plan box, plan.bytes().Box(chunk.offsets, chunk.sizes));
      subject.boxes.push_back(std::move(box));
    }
    WB_TRY(subject.data, ChunkBytes(megatron_, b.chunks));
    subject.plan = std::move(plan);
    return {};
  }

  static void Split(Subject& subject, std::vector<Piece>& pieces) {
    for (size_t c = 0; c < subject.bound->chunks.size(); ++c) {
      const int64_t numel = Numel(subject.bound->chunks[c].sizes);
      for (int64_t at = 0; at < numel; at += kPieceElements) {
        pieces.push_back({&subject, c, at, std::min(at + kPieceElements, numel)});
      }
    }
  }

  Status Compare(const Piece& piece) {
    WB_RETURN_IF_ERROR(Proceed());
    Subject& subject = *piece.subject;
    const DType dtype = subject.bound->tensor->dtype;
    const Sources& sources = subject.plan->sources();
    const Op op = subject.bound->parameter->op;
    const Plan& plan = subject.boxes[piece.chunk];
    const auto found =
        Elements(subject.data[piece.chunk], dtype, piece.begin, piece.end - piece.begin);
    subject.padding_not_zero += NonZeroPadding(plan, sources.dtype, dtype, piece.begin, found);
    if (options_.progress) options_.progress(found.size());
    if (subject.differs) return {};
    if (op == Op::kNone && dtype == sources.dtype) {
      const int64_t size = BitsOf(dtype) / 8;
      if (!EqualBytes(plan, sources, piece.begin * size, found)) subject.differs = true;
      return {};
    }
    thread_local std::vector<std::byte> expected, scratch;
    for (int64_t at = piece.begin; at < piece.end; at += block_elements_) {
      const int64_t n = std::min(block_elements_, piece.end - at);
      const auto block = Elements(found, dtype, at - piece.begin, n);
      WB_RETURN_IF_ERROR(Expected(subject, sources, piece.chunk, at, block, expected, scratch));
      if (std::memcmp(expected.data(), block.data(), block.size()) != 0) subject.differs = true;
    }
    return {};
  }

  // What elements [begin, ...) of the chunk's part must be; where padding is, what they are.
  static Status Expected(const Subject& subject, const Sources& sources, size_t chunk,
                         int64_t begin, std::span<const std::byte> found,
                         std::vector<std::byte>& expected, std::vector<std::byte>& scratch) {
    const DType dtype = subject.bound->tensor->dtype;
    expected.resize(found.size());
    WB_RETURN_IF_ERROR(GatherElements(subject.boxes[chunk], sources, subject.bound->parameter->op,
                                      dtype, begin, expected, scratch));
    VisitPadding(subject.boxes[chunk], sources.dtype, dtype, begin, found.size(),
                 [&](size_t at, size_t size) {
                   std::memcpy(expected.data() + at, found.data() + at, size);
                 });
    return {};
  }

  // visit(byte, bytes) for each run of padding in `size` bytes of `dtype` from element `begin` on.
  template <typename Visitor>
  static void VisitPadding(const Plan& plan, DType hf_dtype, DType dtype, int64_t begin,
                           size_t size, Visitor&& visit) {
    const int64_t hf_size = BitsOf(hf_dtype) / 8, own_size = BitsOf(dtype) / 8;
    const int64_t elements = static_cast<int64_t>(size) / own_size;
    plan.Visit(begin * hf_size, (begin + elements) * hf_size, [&](const Run& run) {
      if (run.other != kZeroSource) return;
      const int64_t first = run.offset / hf_size - begin;
      visit(static_cast<size_t>(first * own_size),
            static_cast<size_t>(run.bytes() / hf_size * own_size));
    });
  }

  static int64_t NonZeroPadding(const Plan& plan, DType hf_dtype, DType dtype, int64_t begin,
                                std::span<const std::byte> found) {
    int64_t count = 0;
    VisitPadding(plan, hf_dtype, dtype, begin, found.size(), [&](size_t at, size_t size) {
      const auto element = static_cast<size_t>(BitsOf(dtype) / 8);
      for (size_t i = at; i < at + size; i += element) {
        const auto one = found.subspan(i, element);
        count += std::any_of(one.begin(), one.end(), [](std::byte b) { return b != std::byte{0}; });
      }
    });
    return count;
  }

  Result<ResultRow> RowOf(const Subject& subject) {
    const BoundParameter& b = *subject.bound;
    const Parameter& p = *b.parameter;
    ResultRow row;
    for (const std::string& name : p.hf) {
      const TensorInfo& t = *hf_.Find(name);
      row.hf.push_back({t.name, t.shape, t.dtype});
    }
    const DType dtype = b.tensor->dtype;
    row.megatron = {model_.MegatronName(p, Dialect::kTe), p.shape, dtype};
    row.transform = p.storage->transform;
    const DType hf_dtype = row.hf[0].dtype.value();
    row.op = OpText(FirstQuantized(p), p.op, hf_dtype, dtype);
    row.bytes = static_cast<uint64_t>(Numel(p.shape) * BitsOf(dtype) / 8);
    if (options_.headers_only) row.metrics = NotCompared();
    if (!options_.headers_only) report_.bytes += row.bytes;
    if (subject.differs) {
      Describe(subject, row);
    } else if (dtype != hf_dtype) {
      if (auto cause = JudgeCast(p, hf_dtype, Cast(), row)) AddCause(*std::move(cause), report_);
    }
    if (subject.padding_not_zero > 0) NotePadding(subject.padding_not_zero, row);
    TakeScaleFaults(scales_, row);
    return row;
  }

  const QuantizedTensor* FirstQuantized(const Parameter& p) const {
    for (const std::string& name : p.hf) {
      if (const QuantizedTensor* q = hf_.Quantized(*hf_.Find(name))) return q;
    }
    return nullptr;
  }

  void NotePadding(int64_t elements, ResultRow& row) {
    if (!options_.strict_padding) {
      report_.notes.push_back({"vocab-padding", PaddingText(row.megatron.name, elements)});
      return;
    }
    row.status = RowStatus::kMismatch;
    row.why = PaddingText(row.megatron.name, elements);
    AddCause(PaddingCause(row.megatron.name, elements), report_);
  }

  // The figures and the first difference of a parameter that differs: a second pass over it.
  Status Measure(Subject& subject) const {
    const BoundParameter& b = *subject.bound;
    const DType dtype = b.tensor->dtype;
    ElementStats stats;
    Measured measured;
    std::vector<std::byte> expected, scratch;
    for (size_t c = 0; c < b.chunks.size(); ++c) {
      const int64_t numel = Numel(b.chunks[c].sizes);
      for (int64_t at = 0; at < numel; at += block_elements_) {
        WB_RETURN_IF_ERROR(Proceed());
        const int64_t n = std::min(block_elements_, numel - at);
        const auto block = Elements(subject.data[c], dtype, at, n);
        WB_RETURN_IF_ERROR(
            Expected(subject, subject.plan->sources(), c, at, block, expected, scratch));
        const ElementStats part =
            CompareElements({dtype, {n}, expected}, {dtype, {n}, block}, {}, 1, true);
        if (part.first_mismatch >= 0) {
          const int64_t element = GlobalElement(b, c, at + part.first_mismatch);
          if (!measured.element || element < *measured.element) {
            measured.element = element;
            measured.chunk = c;
            measured.in_chunk = at + part.first_mismatch;
            measured.expected = BitsText(dtype, expected, part.first_mismatch);
            measured.actual = BitsText(dtype, block, part.first_mismatch);
          }
        }
        stats.Append(part);
      }
    }
    measured.metrics = {stats.max_diff(), stats.mean_diff(), stats.cosine(),  stats.max_relative(),
                        stats.max_ulp,    stats.mismatched,  stats.nan_count, stats.inf_count};
    subject.measured = std::move(measured);
    return {};
  }

  void Describe(const Subject& subject, ResultRow& row) {
    row.status = RowStatus::kMismatch;
    if (!subject.measured) return;  // another rank has its figures, and rank 0 reports them
    const Measured& measured = *subject.measured;
    row.metrics = measured.metrics;
    row.why = fmt::format("{} of {} element(s) differ", measured.metrics.mismatched,
                          Numel(subject.bound->parameter->shape));
    if (const auto why = diagnosis_.why.find(subject.bound->parameter);
        why != diagnosis_.why.end()) {
      row.why += ": " + why->second;
    }
    if (!measured.element) return;
    FirstDifference first;
    first.expected = measured.expected;
    first.actual = measured.actual;
    Locate(subject, *measured.element, first);
    const BoundParameter& b = *subject.bound;
    if (auto place = megatron_.PlaceOf(b.chunks.at(measured.chunk).chunk->stored)) {
      place->first_element += measured.in_chunk;
      LocateOnRank(*place, b.parameter->cut, first, row);
    }
    row.first = std::move(first);
  }

  // An element of a chunk's part, counted in the parameter.
  static int64_t GlobalElement(const BoundParameter& b, size_t chunk, int64_t element) {
    const Shape& sizes = b.chunks[chunk].sizes;
    const Shape& offsets = b.chunks[chunk].offsets;
    const std::vector<int64_t> strides = RowMajorStrides(b.parameter->shape);
    int64_t global = 0;
    for (size_t axis = sizes.size(); axis-- > 0;) {
      global += (element % sizes[axis] + offsets[axis]) * strides[axis];
      element /= sizes[axis];
    }
    return global;
  }

  void Locate(const Subject& subject, int64_t element, FirstDifference& first) const {
    const BoundParameter& b = *subject.bound;
    first.megatron_index = b.index;
    auto in_parameter = MultiIndex(b.parameter->shape, element);
    const BoundChunk* chunk = ChunkWith(b, in_parameter);
    first.megatron_tensor = chunk != nullptr ? chunk->tensor->key : b.tensor->key;
    if (chunk != nullptr && chunk->row > 0) in_parameter[0] -= chunk->row;
    first.megatron_index.insert(first.megatron_index.end(), in_parameter.begin(),
                                in_parameter.end());
    const ParameterPlan::Origin origin = subject.plan->OriginOf(element);
    if (origin.source == kZeroSource) return;
    const TensorInfo& t = *subject.plan->tensors()[static_cast<size_t>(origin.source)];
    first.hf_tensor = t.name;
    first.hf_index = MultiIndex(t.shape, origin.element);
  }

  // Files of ranks: the element in the rank's own words.
  static void LocateOnRank(const RankPlace& place, const TensorCut& cut, FirstDifference& first,
                           ResultRow& row) {
    first.megatron_tensor = place.name;
    first.rank = RankOf(place);
    first.megatron_index = MultiIndex(place.shape, place.first_element);
    row.why +=
        fmt::format("; the first is in {}, whose {} is {}", place.file, ToString(place.shape),
                    cut.replicated() ? std::string("a copy of all of it")
                                     : fmt::format("cut along axis {}", cut.axis));
  }

  // What several ranks hold must be the same in all of their files: a row for each that is not.
  Status CompareRankCopies() {
    if (Rank() != 0) return {};
    WB_TRY(const auto drifted, FindDriftedCopies(megatron_, Threads(), options_.progress));
    std::map<std::pair<std::string, std::string>, size_t> rows;  // file and tensor -> row
    for (const DriftedCopy& d : drifted) {
      const auto [it, added] =
          rows.try_emplace({d.place.file, d.place.name}, report_.results.size());
      if (!added) continue;
      ResultRow row;
      row.megatron = {d.copy->tensor->key, d.place.shape, d.copy->tensor->dtype};
      row.rank = RankOf(d.place);
      row.status = RowStatus::kMismatch;
      row.transform = "copy";
      row.metrics = NotCompared();
      row.metrics.mismatched = d.mismatched;
      const std::vector<int64_t> index = MultiIndex(d.place.shape, d.element);
      row.first = FirstDifference{"", {}, d.place.name, row.rank, index, d.expected, d.actual};
      row.why = fmt::format("{} holds other values than {}", d.place.file, d.original.file);
      AddCause({"replica-drift",
                Proof::kExact,
                Origin::kCheckpoint,
                {row.megatron.name},
                fmt::format("copies of one tensor differ between ranks: '{}' in {} and {}",
                            d.place.name, d.original.file, d.place.file),
                fmt::format("first at {}: {} and {}", ToString(index), d.expected, d.actual),
                ""},
               report_);
      report_.results.push_back(std::move(row));
    }
    return {};
  }

  // What the Hugging Face side stores twice (a tied output layer) and Megatron once.
  void JudgeHfCopies(const Inventory& inventory) {
    JudgedCopies copies = JudgeCopies(hf_, inventory, options_.headers_only);
    for (ResultRow& row : copies.rows) {
      if (!Passed(row.status)) report_.results.push_back(std::move(row));
    }
    for (Cause& cause : copies.causes) AddCause(std::move(cause), report_);
  }

  // A tied model's output layer that is stored too.
  Status CompareTiedCopy() {
    if (Rank() != 0) return {};
    WB_TRY(JudgedCopies copies,
           JudgeTiedCopy(megatron_, binding_, options_.headers_only, Threads()));
    for (ResultRow& row : copies.rows) report_.results.push_back(std::move(row));
    for (Cause& cause : copies.causes) AddCause(std::move(cause), report_);
    return {};
  }

  // A broken one is a fault of the checkpoint, and the weights can be judged all the same.
  Status JudgeMegatronConfig() {
    const auto config = ReadMegatronConfig(megatron_);
    if (!config) {
      const Error& e = config.error();
      if (e.kind != ErrorKind::kCorrupt) return Fail(e);
      AddCause({e.id, Proof::kStructural, Origin::kConfig, {"the config"}, e.what, e.at, e.hint},
               report_);
      return {};
    }
    const bool by_effect = JudgeEffects(*config);
    if (*config) CheckMegatronConfig(model_, **config, by_effect, report_);
    JudgePadding(*config);
    return {};
  }

  bool JudgeEffects(const std::optional<MegatronConfig>& config) {
    if (options_.effects && config) {
      return CompareEffects(model_, *config, *options_.effects, options_.without_mtp, report_);
    }
    report_.unproven.push_back(fmt::format(
        "equal weights are not an equal model: the configs were not compared by effect ({})",
        options_.effects ? "the Megatron checkpoint has none" : "--level L1 judges weights alone"));
    return false;
  }

  // Rows beyond the vocabulary are lawful where Megatron's config declares them; without any config
  // nothing speaks against them.
  void JudgePadding(const std::optional<MegatronConfig>& config) {
    if (model_.padded_vocab() == model_.vocab()) return;
    const std::string padded =
        fmt::format("the Megatron checkpoint's vocabulary of {} rows is padded to {}",
                    model_.vocab(), model_.padded_vocab());
    const auto declared = config ? config->embedding_rows : std::nullopt;
    if (!declared || *declared == model_.padded_vocab()) {
      report_.notes.push_back(
          {"vocab-padded",
           padded + (declared ? "" : "; no config beside it says whether that is meant")});
      return;
    }
    AddCause({"vocab-padding",
              Proof::kStructural,
              Origin::kConfig,
              {"vocab_size"},
              fmt::format("{}, but by {} it has {}", padded, config->origin, *declared),
              config->origin,
              "the rows were padded by hand, or the config is of another checkpoint"},
             report_);
  }

  void Finish() {
    // Rows of ranks are in the order of the ranks, after what concerns none.
    std::stable_sort(report_.results.begin(), report_.results.end(),
                     [](const ResultRow& a, const ResultRow& b) {
                       if (a.rank || b.rank) return !a.rank && b.rank;
                       return a.megatron.name < b.megatron.name;
                     });
    report_.details.emplace_back("family", model_.spec().name);
    report_.details.emplace_back("format", std::string(megatron_.format()));
    report_.details.emplace_back("megatron tensors",
                                 fmt::format("{}", megatron_.metadata().tensors.size()));
    for (auto& detail : megatron_.details()) report_.details.push_back(std::move(detail));
    if (options_.headers_only) {
      report_.unproven.push_back("no tensor data was read: --level L1 compares every byte");
    }
    for (const FileInfo& file : hf_.files()) {
      report_.inputs.push_back({file.path.string(), file.nbytes, file.header_xxh3, std::nullopt});
    }
    for (const FileInfo& file : megatron_.identity()) {
      report_.inputs.push_back({file.path.string(), file.nbytes, file.header_xxh3, std::nullopt});
    }
  }

  const Model& model_;
  const Checkpoint& hf_;
  const MegatronCheckpoint& megatron_;
  const VerifyOptions& options_;
  const BlockBudget budget_;
  const int64_t block_elements_;
  MegatronBinding binding_;
  std::vector<const Parameter*> sources_;  // that Hugging Face has
  ScaleJudgement scales_;
  Diagnosis diagnosis_;
  std::vector<std::unique_ptr<Subject>> subjects_;
  Report report_;
};

}  // namespace

Result<Report> Verify(const Model& model, const Checkpoint& hf, const MegatronCheckpoint& megatron,
                      const VerifyOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  WB_TRY(Report report, Verifier(model, hf, megatron, options).Judge());
  report.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace weighbridge
