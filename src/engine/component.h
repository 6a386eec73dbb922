// Finds and loads the engine component (engine/boundary.h). Nothing of it, and nothing of libtorch,
// is in the process before Load().
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/tensor.h"

struct WbEngine;
struct WbEngineSession;

namespace weighbridge {

// What was read of the library's file, without loading it.
struct ComponentInfo {
  std::filesystem::path library;
  std::string torch_version;           // that it was built with: "2.11.0+cu130"
  std::filesystem::path torch_folder;  // of the torch package that would be loaded
};

// $WEIGHBRIDGE_ENGINE (the library), else beside the program, in ../lib of it, or where the build
// put it. kNotFound "engine-missing" with how to get it; kUnsupported "engine-version" when torch
// is another one than it was built with. $WEIGHBRIDGE_TORCH names the folder of the torch package
// where it is not the one of the build.
Result<ComponentInfo> FindComponent();

// A tensor for a call: bytes that outlive the call.
struct NamedTensor {
  std::string name;
  TensorView view;
};

// One session of the loaded component. Not to be used by two threads at once.
class EngineSession {
 public:
  // Loads the component on the first call of the process, with CUDA when that asks for it. Errors:
  // those of FindComponent; kIo "engine-load" when the system refuses it.
  static Result<std::unique_ptr<EngineSession>> Open(const nlohmann::json& request);
  ~EngineSession();
  EngineSession(const EngineSession&) = delete;
  EngineSession& operator=(const EngineSession&) = delete;

  // Errors: what the component says, as kUnsupported or kInternal.
  Result<nlohmann::json> Call(const nlohmann::json& request, std::span<const NamedTensor> tensors);
  // The float32 tensor that the session keeps under `name`; kInternal when there is none.
  struct State {
    Shape shape;
    std::vector<float> values;
  };
  Result<State> Read(const std::string& name) const;

 private:
  EngineSession(const WbEngine* engine, WbEngineSession* session)
      : engine_(engine), session_(session) {}
  const WbEngine* engine_;
  WbEngineSession* session_;
};

// A request to the loaded component about this process as one of several ranks
// (engine/parallel/requests.h). Errors: those of EngineSession::Open and Call.
Result<nlohmann::json> AskTeam(const nlohmann::json& request, bool cuda,
                               std::span<const NamedTensor> tensors = {});

}  // namespace weighbridge
