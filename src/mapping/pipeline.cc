// Which decoder layers a pipeline stage owns. All of Megatron's splits place layers in the order of
// virtual stages, then pipeline ranks; they differ only in how many layers each chunk gets.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "mapping/sharding.h"

namespace weighbridge {
namespace {

tl::unexpected<Error> BadGrid(std::string what, std::string hint = "") {
  return Fail(ErrorKind::kUsage, "grid", std::move(what), "", std::move(hint));
}

// Far above any machine; keeps products of group sizes small.
constexpr int kMaxGroup = 1 << 14;

// A byte that may be half of a UTF-8 sequence.
std::string Printable(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x20 && byte < 0x7F ? std::string(1, c) : fmt::format("\\x{:02X}", byte);
}

// What a stage holds, before layers are numbered.
struct Contents {
  int64_t decoder = 0, mtp = 0;
  bool embedding = false, output = false;
};

Result<int64_t> Divide(int64_t layers, int64_t parts, const char* what) {
  if (layers < 0 || parts <= 0 || layers % parts != 0) {
    return BadGrid(fmt::format("{} layers cannot be divided into {} {}", layers, parts, what),
                   "use --first-stage-layers, --last-stage-layers or --pp-layout");
  }
  return layers / parts;
}

Result<std::vector<Contents>> EvenStages(const ParallelGrid& grid, int64_t layers) {
  const int64_t chunks = int64_t{grid.pp} * grid.vpp;
  const int64_t counted =
      layers + (grid.account_for_embedding ? 1 : 0) + (grid.account_for_loss ? 1 : 0);
  WB_TRY(const int64_t each, Divide(counted, chunks, "pipeline stages"));
  std::vector<Contents> stages(static_cast<size_t>(chunks), Contents{each});
  stages.front().decoder -= grid.account_for_embedding ? 1 : 0;
  stages.back().decoder -= grid.account_for_loss ? 1 : 0;
  if (stages.front().decoder < 0 || stages.back().decoder < 0) {
    return BadGrid("there are fewer layers than stages");
  }
  return stages;
}

Result<std::vector<Contents>> UnevenStages(const ParallelGrid& grid, int64_t layers) {
  const bool first = grid.first_stage_layers >= 0, last = grid.last_stage_layers >= 0;
  if (grid.pp < 2) return BadGrid("uneven stages need --pp 2 or more");
  for (const int64_t given : {grid.first_stage_layers, grid.last_stage_layers}) {
    if (given == 0 || given > layers) {
      return BadGrid(fmt::format("a stage of {} layers, the model has {}", given, layers));
    }
  }
  const int64_t middle_stages = grid.pp - (first ? 1 : 0) - (last ? 1 : 0);
  const int64_t middle =
      layers - (first ? grid.first_stage_layers : 0) - (last ? grid.last_stage_layers : 0);
  int64_t per_middle = 0;
  if (middle_stages > 0) {
    if (middle <= 0) {
      return BadGrid(fmt::format("the first and last stage leave no layer for the {} between them",
                                 middle_stages));
    }
    WB_TRY(per_middle, Divide(middle, middle_stages * grid.vpp, "middle pipeline stages"));
  } else if (grid.vpp > 1) {
    return BadGrid("without stages between the first and the last Megatron has no virtual stages");
  } else if (middle != 0) {
    return BadGrid(
        fmt::format("the first and last stage hold {} of {} layers", layers - middle, layers));
  }
  int64_t per_first = per_middle, per_last = per_middle;
  if (first) {
    WB_TRY(per_first,
           Divide(grid.first_stage_layers, grid.vpp, "virtual stages of the first stage"));
  }
  if (last) {
    WB_TRY(per_last, Divide(grid.last_stage_layers, grid.vpp, "virtual stages of the last stage"));
  }
  std::vector<Contents> stages;
  for (int v = 0; v < grid.vpp; ++v) {
    for (int p = 0; p < grid.pp; ++p) {
      stages.push_back({p == 0 ? per_first : p == grid.pp - 1 ? per_last : per_middle});
    }
  }
  return stages;
}

Result<std::vector<Contents>> LayoutStages(const ParallelGrid& grid) {
  WB_TRY(const std::vector<std::string> text, ParsePipelineLayout(grid.pp_layout));
  if (text.size() % static_cast<size_t>(grid.pp) != 0 ||
      text.size() != static_cast<size_t>(grid.pp) * static_cast<size_t>(grid.vpp)) {
    return BadGrid(fmt::format("the layout has {} stages, the grid needs pp {} x vpp {} = {}",
                               text.size(), grid.pp, grid.vpp, grid.pp * grid.vpp));
  }
  std::vector<Contents> stages;
  for (const std::string& letters : text) {
    Contents c;
    for (char letter : letters) {
      if (letter == 't') ++c.decoder;
      if (letter == 'm') ++c.mtp;
    }
    stages.push_back(c);
  }
  return stages;
}

// What Megatron's validate_layer_layout demands.
Status CheckLayoutOrder(const std::string& all, int64_t layers, int64_t mtp_layers) {
  const auto count = [&](char c) { return std::count(all.begin(), all.end(), c); };
  if (all.empty() || all.front() != 'E' || all.back() != 'L' || count('E') != 1 ||
      count('L') != 1) {
    return BadGrid("a layout begins with its only E (embedding) and ends with its only L (loss)");
  }
  if (count('t') != layers) {
    return BadGrid(
        fmt::format("the layout places {} decoder layers, the model has {}", count('t'), layers));
  }
  if (count('m') != mtp_layers) {
    return BadGrid(
        fmt::format("the layout places {} MTP layers, the model has {}", count('m'), mtp_layers));
  }
  if (all.find('m') != std::string::npos && all.find('t', all.find('m')) != std::string::npos) {
    return BadGrid("decoder layers must stand before MTP layers in the layout");
  }
  return {};
}

Status CheckMtpStage(const std::vector<Contents>& stages, const ParallelGrid& grid,
                     int64_t mtp_layers) {
  for (size_t i = 0; i < stages.size(); ++i) {
    if (stages[i].mtp == 0) continue;
    if (stages[i].mtp != mtp_layers)
      return BadGrid("all MTP layers stand in one stage of the layout");
    if (i < static_cast<size_t>(grid.pp) * static_cast<size_t>(grid.vpp - 1)) {
      return BadGrid("MTP layers stand in the last virtual stage of their pipeline rank");
    }
  }
  return {};
}

constexpr size_t kMaxLayoutLetters = 100000;

// Reads the decimal digits at `at`; nullopt when there are none. Capped far above any use.
std::optional<size_t> TakeNumber(std::string_view text, size_t& at) {
  const size_t begin = at;
  size_t n = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    n = std::min<size_t>(n * 10 + static_cast<size_t>(text[at++] - '0'), 1'000'000);
  }
  return at == begin ? std::nullopt : std::optional<size_t>(n);
}

Status Repeat(std::string_view unit, size_t n, std::string& out) {
  if (out.size() + unit.size() * n > kMaxLayoutLetters) {
    return BadGrid("the pipeline layout repeats something too many times");
  }
  for (size_t k = 0; k < n; ++k) out += unit;
  return {};
}

// Megatron's first replacement, \(([^)]+)\)\*(\d+): groups with a factor, once, from left to right.
Result<std::string> UnrollGroups(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t close = text[i] == '(' ? text.find(')', i) : std::string_view::npos;
    if (close != std::string_view::npos && close > i + 1 &&
        text.substr(close + 1).starts_with('*')) {
      size_t end = close + 2;
      if (const std::optional<size_t> n = TakeNumber(text, end)) {
        WB_RETURN_IF_ERROR(Repeat(text.substr(i + 1, close - i - 1), *n, out));
        i = end;
        continue;
      }
    }
    WB_RETURN_IF_ERROR(Repeat(text.substr(i++, 1), 1, out));
  }
  return out;
}

// Its second one, (.)\*(\d+): single characters with a factor, once, from left to right.
Result<std::string> UnrollCharacters(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i + 1).starts_with('*')) {
      size_t end = i + 2;
      if (const std::optional<size_t> n = TakeNumber(text, end)) {
        WB_RETURN_IF_ERROR(Repeat(text.substr(i, 1), *n, out));
        i = end;
        continue;
      }
    }
    WB_RETURN_IF_ERROR(Repeat(text.substr(i++, 1), 1, out));
  }
  return out;
}

}  // namespace

Result<std::vector<std::string>> ParsePipelineLayout(std::string_view text) {
  if (text.size() > 65536) return BadGrid("the pipeline layout is too long");
  std::string bare(text);
  std::erase(bare, ',');
  WB_TRY(const std::string grouped, UnrollGroups(bare));
  WB_TRY(const std::string flat, UnrollCharacters(grouped));
  std::vector<std::string> stages(1);
  for (char c : flat) {
    if (c == '|') {
      stages.emplace_back();
    } else if (c == 'E' || c == 't' || c == 'm' || c == 'L') {
      stages.back() += c;
    } else {
      return BadGrid(
          fmt::format("'{}' is not part of a pipeline layout", Printable(c)),
          "use E (embedding), t (decoder layer), m (MTP layer), L (loss), |, x*n and (...)*n "
          "without nesting and without blanks");
    }
  }
  return stages;
}

Result<std::vector<Stage>> PlaceLayers(const ParallelGrid& grid, int64_t layers,
                                       int64_t mtp_layers) {
  if (grid.tp < 1 || grid.pp < 1 || grid.vpp < 1 || grid.ep < 1 || grid.etp < 1) {
    return BadGrid("every parallel size is at least 1");
  }
  if (std::max({grid.tp, grid.ep, grid.etp}) > kMaxGroup) {
    return BadGrid(fmt::format("a parallel size is larger than {}", kMaxGroup));
  }
  if (grid.pp == 1 && grid.vpp > 1) return BadGrid("virtual stages need --pp 2 or more");
  if (int64_t{grid.pp} * grid.vpp > 65536) return BadGrid("too many pipeline stages");
  std::vector<Contents> contents;
  const bool uneven = grid.first_stage_layers >= 0 || grid.last_stage_layers >= 0;
  if (!grid.pp_layout.empty()) {
    if (uneven || grid.account_for_embedding || grid.account_for_loss) {
      return BadGrid("--pp-layout excludes the other ways to place layers");
    }
    WB_TRY(contents, LayoutStages(grid));
    WB_TRY(const std::vector<std::string> text, ParsePipelineLayout(grid.pp_layout));
    std::string all;
    for (const std::string& stage : text) all += stage;
    WB_RETURN_IF_ERROR(CheckLayoutOrder(all, layers, mtp_layers));
    WB_RETURN_IF_ERROR(CheckMtpStage(contents, grid, mtp_layers));
  } else {
    if (uneven && (grid.account_for_embedding || grid.account_for_loss)) {
      return BadGrid("uneven stages exclude counting the embedding or the loss as a layer");
    }
    if (uneven) {
      WB_TRY(contents, UnevenStages(grid, layers));
    } else {
      WB_TRY(contents, EvenStages(grid, layers));
    }
    contents.back().mtp = mtp_layers;
  }
  // Also with a layout whose E or L stands beside an empty stage: Megatron asks for the rank, not
  // the letter.
  contents.front().embedding = true;
  contents.back().output = true;
  std::vector<Stage> stages;
  int64_t layer = 0, mtp = 0;
  for (size_t i = 0; i < contents.size(); ++i) {
    Stage stage;
    stage.vpp = static_cast<int>(i) / grid.pp;
    stage.pp = static_cast<int>(i) % grid.pp;
    for (int64_t k = 0; k < contents[i].decoder; ++k) stage.decoder_layers.push_back(layer++);
    for (int64_t k = 0; k < contents[i].mtp; ++k) stage.mtp_layers.push_back(mtp++);
    stage.has_embedding = contents[i].embedding;
    stage.has_output = contents[i].output;
    // With MTP layers Megatron builds the final norm where the last decoder layer is.
    stage.has_final_norm =
        mtp_layers == 0 ? contents[i].output : contents[i].decoder > 0 && layer == layers;
    stages.push_back(std::move(stage));
  }
  return stages;
}

}  // namespace weighbridge
