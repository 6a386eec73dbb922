#include "engine/python.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/strings.h"
#include "base/subprocess.h"
#include "engine/component.h"
#include "family/embedded.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kAnother = "name another Python with WEIGHBRIDGE_PYTHON";

// Nothing is downloaded, and no library starts threads or devices of its own accord.
const std::vector<std::pair<std::string, std::string>> kEnvironment = {
    {"HF_HUB_OFFLINE", "1"},           {"TRANSFORMERS_OFFLINE", "1"},
    {"HF_HUB_DISABLE_TELEMETRY", "1"}, {"TOKENIZERS_PARALLELISM", "false"},
    {"CUDA_VISIBLE_DEVICES", ""},      {"WANDB_MODE", "disabled"},
};

std::string_view Script(std::string_view name) {
  for (const EmbeddedFile& file : EmbeddedChildren()) {
    if (file.name == name) return file.text;
  }
  return "";
}

// The last line that says something.
std::string LastLine(std::string_view text) {
  const size_t end = text.find_last_not_of(" \n\r\t");
  if (end == std::string_view::npos) return "it says nothing";
  const size_t begin = text.find_last_of("\n\r", end);
  const size_t first = begin == std::string_view::npos ? 0 : begin + 1;
  return ToPrintable(text.substr(first, std::min<size_t>(end + 1 - first, 500)));
}

std::string Text(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? ToPrintable(it->get<std::string>()) : "";
}

Error ReplyError(const json& error, const std::string& python) {
  const std::string id = Text(error, "id");
  ErrorKind kind = ErrorKind::kInvalid;
  if (id == "package-missing") kind = ErrorKind::kNotFound;
  if (id == "original-unsupported") kind = ErrorKind::kUnsupported;
  return {kind, id.empty() ? "original-failed" : id, Text(error, "what"), python,
          Text(error, "hint")};
}

}  // namespace

std::string FindPython() {
  if (const char* named = std::getenv("WEIGHBRIDGE_PYTHON"); named != nullptr && *named != '\0') {
    return named;
  }
  if (const auto component = FindComponent()) {
    // PREFIX/lib/python3.12/site-packages/torch
    fs::path prefix = component->torch_folder;
    for (int i = 0; i < 4; ++i) prefix = prefix.parent_path();
    std::error_code error;
    if (const fs::path python = prefix / "bin/python3"; fs::exists(python, error)) {
      return python.string();
    }
  }
  return "python3";
}

Result<json> CallPython(const std::string& name, const json& request, double timeout_s) {
  Subprocess child;
  const std::string python = FindPython();
  child.argv = {python, "-I", "-c", fmt::format("{}\n\n{}", Script("prelude"), Script(name))};
  child.environment = kEnvironment;
  child.input = request.dump(-1, ' ', false, json::error_handler_t::replace);
  child.timeout_s = timeout_s;
  child.most_output = 64u << 20;
  auto result = RunSubprocess(child);
  if (!result) {
    Error error = std::move(result).error();
    if (error.id != "program-missing") return Fail(std::move(error));
    error.what = "this needs Python, which is not there";
    return Fail(std::move(error).Hint(kAnother));
  }
  if (result->timed_out) {
    return Fail(ErrorKind::kIo, "python-failed",
                fmt::format("the Python process took longer than {}", FormatDuration(timeout_s)),
                python);
  }
  const auto reply = ParseJson(result->out, "the reply of the Python process");
  if (result->status != 0 || !reply || !reply->is_object()) {
    const bool killed = result->status == 128 + 9;
    return Fail(ErrorKind::kIo, "python-failed",
                fmt::format("the Python process ended with status {} and no answer: {}",
                            result->status, LastLine(result->err)),
                python, killed ? "it was killed; is there memory enough?" : kAnother);
  }
  if (const auto error = reply->find("error"); error != reply->end() && error->is_object()) {
    return Fail(ReplyError(*error, python));
  }
  return *reply;
}

std::string VersionsOf(const json& reply, const std::string& first) {
  std::vector<std::string> parts;
  const json versions = reply.value("versions", json::object());
  for (const auto& [package, version] : versions.items()) {
    if (!version.is_string()) continue;
    const std::string part = ToPrintable(package + " " + version.get<std::string>());
    parts.insert(package == first ? parts.begin() : parts.end(), part);
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace weighbridge
