#include "engine/component.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "base/strings.h"
#include "engine/boundary.h"

namespace weighbridge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kLibrary = "libweighbridge_engine.so";
constexpr const char* kHowToGet =
    "`make engine` installs torch (about 6 GB) and builds it; or name it with WEIGHBRIDGE_ENGINE";

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

fs::path ProgramFolder() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path();
}

// What follows `mark` in the file's bytes, up to the zero.
std::string Marked(std::string_view bytes, std::string_view mark) {
  constexpr size_t kLongest = 4096;
  const size_t at = bytes.find(mark);
  if (at == std::string_view::npos) return "";
  const std::string_view rest = bytes.substr(at + mark.size(), kLongest);
  return std::string(rest.substr(0, rest.find('\0')));
}

// __version__ = '2.11.0+cu130' of torch/version.py.
std::string VersionOfTorch(const fs::path& folder) {
  const auto text = ReadTextFile(folder / "version.py", 1 << 16);
  if (!text) return "";
  const size_t key = text->find("__version__ = '");
  if (key == std::string::npos) return "";
  const size_t begin = key + 15;
  return text->substr(begin, text->find('\'', begin) - begin);
}

Result<fs::path> FindLibrary() {
  std::error_code error;
  if (const std::string named = Environment("WEIGHBRIDGE_ENGINE"); !named.empty()) {
    if (fs::is_regular_file(named, error)) return fs::path(named);
    return Fail(ErrorKind::kNotFound, "engine-missing",
                "WEIGHBRIDGE_ENGINE names no file, and this command needs the engine", named,
                kHowToGet);
  }
  const fs::path program = ProgramFolder();
  for (const fs::path& folder : {program, program / "../lib/weighbridge", program / "../lib"}) {
    if (fs::is_regular_file(folder / kLibrary, error)) return folder / kLibrary;
  }
  return Fail(ErrorKind::kNotFound, "engine-missing",
              "this command runs models and needs the engine component, which is not there",
              (program / kLibrary).string(), kHowToGet);
}

struct Library {
  const WbEngine* engine = nullptr;
};

Error LoadError(const fs::path& what) {
  const char* why = ::dlerror();
  return {ErrorKind::kIo, "engine-load",
          fmt::format("the system cannot load it: {}", why == nullptr ? "no reason given" : why),
          what.string(), "is torch installed whole, with the packages that it needs?"};
}

// torch first, by its path: the component then finds its libraries loaded, wherever they are.
// libtorch_cuda has to be there before the first call that asks for a device.
Status LoadTorch(const fs::path& folder, bool cuda) {
  struct Part {
    const char* name;
    int scope;
    bool of_cuda;
  };
  constexpr std::array<Part, 5> kParts = {{{"libtorch_global_deps.so", RTLD_GLOBAL, false},
                                           {"libc10.so", RTLD_LOCAL, false},
                                           {"libtorch_cpu.so", RTLD_LOCAL, false},
                                           {"libc10_cuda.so", RTLD_GLOBAL, true},
                                           {"libtorch_cuda.so", RTLD_GLOBAL, true}}};
  for (const Part& part : kParts) {
    if (part.of_cuda && !cuda) continue;
    const fs::path path = folder / "lib" / part.name;
    std::error_code error;
    if (!fs::exists(path, error)) {
      if (!part.of_cuda) continue;
      return Fail(ErrorKind::kUnsupported, "device", "this torch was built without CUDA",
                  folder.string(), "--device cpu, or install a torch with CUDA");
    }
    if (::dlopen(path.c_str(), RTLD_NOW | part.scope) == nullptr) return Fail(LoadError(path));
  }
  return {};
}

// libgomp's threads spin for a long time before they sleep, which on a machine that does other work
// too costs up to ten times the time of small operations. Read when torch is loaded.
void LimitSpinning() {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) ::setenv("GOMP_SPINCOUNT", "10000", 0);
}

Result<Library> Load(bool cuda) {
  LimitSpinning();
  WB_TRY(const ComponentInfo info, FindComponent());
  WB_RETURN_IF_ERROR(LoadTorch(info.torch_folder, cuda));
  void* handle = ::dlopen(info.library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return Fail(LoadError(info.library));
  const auto entry = reinterpret_cast<WbEngineEntry>(::dlsym(handle, WB_ENGINE_ENTRY));
  if (entry == nullptr) return Fail(LoadError(info.library));
  const WbEngine* engine = entry();
  if (engine->abi != WB_ENGINE_ABI) {
    return Fail(ErrorKind::kUnsupported, "engine-version",
                "the engine belongs to another version of this program", info.library.string(),
                "build both from the same sources: `make engine`");
  }
  return Library{engine};
}

// Once in a process: what it loads cannot be taken out again, and CUDA cannot come later.
Result<Library> Loaded(bool cuda) {
  static std::mutex mutex;
  static std::optional<Result<Library>> library;
  const std::lock_guard lock(mutex);
  if (!library) library.emplace(Load(cuda));
  return *library;
}

// Takes over the component's text.
std::string Take(const WbEngine& engine, char* text) {
  std::string out = text == nullptr ? "" : text;
  if (text != nullptr) engine.free_text(text);
  return out;
}

// "unsupported: ..." is what the models do not know; anything else is ours.
Error EngineError(std::string text) {
  constexpr std::string_view kUnknown = "unsupported: ";
  if (text.starts_with(kUnknown)) {
    return {ErrorKind::kUnsupported, "engine-unsupported", text.substr(kUnknown.size()), "", ""};
  }
  return {ErrorKind::kInternal, "engine", "the engine failed: " + text, "", ""};
}

Result<std::vector<WbEngineTensor>> RawTensors(std::span<const NamedTensor> tensors) {
  std::vector<WbEngineTensor> raw;
  raw.reserve(tensors.size());
  for (const NamedTensor& tensor : tensors) {
    const TensorView& view = tensor.view;
    if (view.shape.size() > WB_ENGINE_MAX_RANK) {
      return Fail(ErrorKind::kUnsupported, "engine-unsupported",
                  fmt::format("a tensor of {} axes", view.shape.size()), tensor.name);
    }
    WbEngineTensor& out = raw.emplace_back(WbEngineTensor{tensor.name.c_str(),
                                                          view.bytes.data(),
                                                          static_cast<int32_t>(view.dtype),
                                                          static_cast<int32_t>(view.shape.size()),
                                                          {}});
    std::copy(view.shape.begin(), view.shape.end(), out.shape);
  }
  return raw;
}

Result<json> Answer(const WbEngine& engine, int32_t failed, char* reply) {
  std::string text = Take(engine, reply);
  if (failed != 0) return Fail(EngineError(std::move(text)));
  return ParseJson(text, "the engine's reply");
}

}  // namespace

Result<ComponentInfo> FindComponent() {
  ComponentInfo info;
  WB_TRY(info.library, FindLibrary());
  WB_TRY(const auto file, MappedFile::Open(info.library));
  const std::string_view bytes(reinterpret_cast<const char*>(file->bytes().data()), file->size());
  info.torch_version = Marked(bytes, WB_ENGINE_TORCH_MARK);
  if (info.torch_version.empty()) {
    return Fail(ErrorKind::kUnsupported, "engine-version", "this is no engine of Weighbridge",
                info.library.string(), kHowToGet);
  }
  const std::string named = Environment("WEIGHBRIDGE_TORCH");
  info.torch_folder = named.empty() ? Marked(bytes, WB_ENGINE_FOLDER_MARK) : named;
  const std::string installed = VersionOfTorch(info.torch_folder);
  if (installed.empty()) {
    return Fail(ErrorKind::kNotFound, "engine-missing",
                fmt::format("the engine needs torch {}, which is not there", info.torch_version),
                info.torch_folder.string(),
                fmt::format("install torch=={} and set WEIGHBRIDGE_TORCH to the folder of the "
                            "package (the one with version.py)",
                            info.torch_version));
  }
  if (installed != info.torch_version) {
    return Fail(ErrorKind::kUnsupported, "engine-version",
                fmt::format("the engine was built with torch {}, and this is {}",
                            info.torch_version, ToPrintable(installed)),
                info.torch_folder.string(),
                "build the engine again with this torch, or set WEIGHBRIDGE_TORCH to the other");
  }
  return info;
}

Result<std::unique_ptr<EngineSession>> EngineSession::Open(const json& request) {
  WB_TRY(const Library library, Loaded(request.value("device", "cpu") == "cuda"));
  char* reply = nullptr;
  WbEngineSession* session = library.engine->open(request.dump().c_str(), &reply);
  std::string text = Take(*library.engine, reply);
  if (session == nullptr) return Fail(EngineError(std::move(text)));
  return std::unique_ptr<EngineSession>(new EngineSession(library.engine, session));
}

EngineSession::~EngineSession() { engine_->close(session_); }

Result<json> EngineSession::Call(const json& request, std::span<const NamedTensor> tensors) {
  WB_TRY(const std::vector<WbEngineTensor> raw, RawTensors(tensors));
  char* reply = nullptr;
  const int32_t failed =
      engine_->call(session_, request.dump().c_str(), raw.data(), raw.size(), &reply);
  return Answer(*engine_, failed, reply);
}

Result<json> AskTeam(const json& request, bool cuda, std::span<const NamedTensor> tensors) {
  WB_TRY(const Library library, Loaded(cuda));
  WB_TRY(const std::vector<WbEngineTensor> raw, RawTensors(tensors));
  char* reply = nullptr;
  const int32_t failed =
      library.engine->team(request.dump().c_str(), raw.data(), raw.size(), &reply);
  return Answer(*library.engine, failed, reply);
}

Result<EngineSession::State> EngineSession::Read(const std::string& name) const {
  std::array<int64_t, WB_ENGINE_MAX_RANK> extents{};
  int32_t rank = 0;
  const float* values = engine_->state(session_, name.c_str(), extents.data(), &rank);
  if (values == nullptr) {
    return Fail(ErrorKind::kInternal, "engine", "the engine keeps no '" + name + "'");
  }
  State state;
  state.shape.assign(extents.begin(), extents.begin() + rank);
  state.values.assign(values, values + Numel(state.shape));
  return state;
}

}  // namespace weighbridge
