// `weighbridge env`: what this build is, what it stands on and what it sees. The text to attach to
// a report of a bug.
#include <fmt/format.h>
#include <libdeflate.h>
#include <simdjson.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <xxhash.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <tl/expected.hpp>
#include <vector>

#include "base/strings.h"
#include "base/toml.h"
#include "cli/command.h"
#include "cli/version.h"
#include "cli/version_text.h"
#include "engine/component.h"

namespace weighbridge::cli {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> CpuFeatures() {
  std::vector<std::string> features;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("sse4.2")) features.emplace_back("sse4.2");
  if (__builtin_cpu_supports("avx")) features.emplace_back("avx");
  if (__builtin_cpu_supports("avx2")) features.emplace_back("avx2");
  if (__builtin_cpu_supports("fma")) features.emplace_back("fma");
  if (__builtin_cpu_supports("avx512f")) features.emplace_back("avx512f");
  if (__builtin_cpu_supports("avx512bw")) features.emplace_back("avx512bw");
#elif defined(__aarch64__)
  features.emplace_back("neon");
#endif
  return features;
}

std::string EnvironmentOr(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

// The rule of huggingface_hub: HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub.
std::string HubCache() {
  const std::string cache = EnvironmentOr("XDG_CACHE_HOME", EnvironmentOr("HOME", "~") + "/.cache");
  const std::string home = EnvironmentOr("HF_HOME", cache + "/huggingface");
  return EnvironmentOr("HF_HUB_CACHE", home + "/hub");
}

std::string System() {
  struct utsname name {};
  if (::uname(&name) != 0) return kSystem;
  return fmt::format("{} {} {}", name.sysname, name.release, name.machine);
}

Json Libraries() {
  return {{"CLI11", CLI11_VERSION},
          {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100,
                              FMT_VERSION % 100)},
          {"libdeflate", LIBDEFLATE_VERSION_STRING},
          {"nlohmann-json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                        NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
          {"simdjson", SIMDJSON_VERSION},
          {"tl-expected", fmt::format("{}.{}.{}", TL_EXPECTED_VERSION_MAJOR,
                                      TL_EXPECTED_VERSION_MINOR, TL_EXPECTED_VERSION_PATCH)},
          {"toml++", fmt::format("{}.{}.{}", TOML_LIB_MAJOR, TOML_LIB_MINOR, TOML_LIB_PATCH)},
          {"xxHash",
           fmt::format("{}.{}.{}", XXH_VERSION_MAJOR, XXH_VERSION_MINOR, XXH_VERSION_RELEASE)},
          {"yaml-cpp", kYamlCppVersion}};
}

// Rooms of the design that this build does not have, and what cannot be done without them.
Json Absent() {
  Json absent =
      Json::array({{{"name", "python"}, {"needed_for", "the Python package and its hooks"}}});
  if (const auto engine = FindComponent(); !engine) {
    absent.insert(absent.begin(),
                  Json{{"name", "engine"}, {"needed_for", "compare, generate, train (libtorch)"}});
  }
  return absent;
}

Json Environment() {
  Json json;
  json["version"] = VersionText();
  json["build"] = {{"compiler", kCompiler}, {"type", kBuildType}, {"flags", kCompilerFlags}};
  json["libraries"] = Libraries();
  const auto memory = static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                      static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  json["machine"] = {{"system", System()},
                     {"cores", std::thread::hardware_concurrency()},
                     {"memory_bytes", memory},
                     {"cpu_features", CpuFeatures()},
                     {"json_parser", std::string(simdjson::get_active_implementation()->name())}};
  const std::string families = EnvironmentOr("WEIGHBRIDGE_FAMILIES", "");
  json["paths"] = {{"hf_hub_cache", HubCache()},
                   {"hf_hub_cache_exists", ::access(HubCache().c_str(), R_OK | X_OK) == 0},
                   {"families_override", families.empty() ? Json() : Json(families)}};
  json["absent"] = Absent();
  return json;
}

std::string Line(std::string_view label, std::string_view value) {
  return fmt::format("{:16}{}\n", fmt::format("{}:", label), ToPrintable(value));
}

std::string Text(const Json& json) {
  const auto text = [&](const char* object, const char* key) {
    return json[object][key].get<std::string>();
  };
  std::string out = "weighbridge " + json["version"].get<std::string>() + "\n";
  out += Line("compiler", fmt::format("{}, {}", text("build", "compiler"), text("build", "type")));
  out += Line("flags", text("build", "flags"));
  out += Line("system", text("machine", "system"));
  out += Line("cores", fmt::format("{}", json["machine"]["cores"].get<unsigned>()));
  out += Line("memory", FormatBytes(json["machine"]["memory_bytes"].get<uint64_t>()));
  std::string features;
  for (const Json& feature : json["machine"]["cpu_features"]) {
    features += (features.empty() ? "" : " ") + feature.get<std::string>();
  }
  out += Line("CPU features", features);
  out += Line("JSON parser", "simdjson, " + text("machine", "json_parser"));
  const bool cache = json["paths"]["hf_hub_cache_exists"].get<bool>();
  out += Line("HF cache", text("paths", "hf_hub_cache") + (cache ? "" : " (not there)"));
  const Json& families = json["paths"]["families_override"];
  out += Line("families", families.is_null() ? "built in (WEIGHBRIDGE_FAMILIES is not set)"
                                             : families.get<std::string>());
  std::string libraries;
  for (const auto& [name, version] : json["libraries"].items()) {
    libraries += (libraries.empty() ? "" : ", ") + name + " " + version.get<std::string>();
  }
  out += Line("libraries", libraries);
  for (const Json& part : json["absent"]) {
    out += Line("not installed", fmt::format("{}: needed for {}", part["name"].get<std::string>(),
                                             part["needed_for"].get<std::string>()));
  }
  return out;
}

}  // namespace

void AddEnv(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("env", "what is installed and what this build can do");
  auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "print it as JSON");
  command->callback([&context, as_json] {
    const Json json = Environment();
    const auto replace = Json::error_handler_t::replace;
    context.exit_status =
        PrintStdout(*as_json ? json.dump(2, ' ', false, replace) + "\n" : Text(json));
  });
}

}  // namespace weighbridge::cli
