// The component's only exported function. Everything that throws ends here.
#include <c10/util/Exception.h>

#include <cstring>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "engine/boundary.h"
#include "engine/forward/kept_memory.h"
#include "engine/forward/session.h"
#include "engine/parallel/requests.h"

// What the session hands out; the text that a caller reads is contiguous float32.
struct WbEngineSession {
  explicit WbEngineSession(const nlohmann::json& request) : session(request) {}
  weighbridge::engine::Session session;
  at::Tensor shown;
};

namespace weighbridge::engine {
namespace {

using nlohmann::json;

// Read from the file by component.cc, so they have to stay in it.
[[gnu::used]] constexpr char kTorchVersion[] = WB_ENGINE_TORCH_MARK WEIGHBRIDGE_TORCH_VERSION;
[[gnu::used]] constexpr char kTorchFolder[] = WB_ENGINE_FOLDER_MARK WEIGHBRIDGE_TORCH_FOLDER;

char* Copy(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy != nullptr) std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

template <typename Function>
bool Guarded(char** reply, Function&& function) {
  try {
    function();
    return true;
  } catch (const Unsupported& error) {
    *reply = Copy(std::string("unsupported: ") + error.what());
  } catch (const c10::Error& error) {
    *reply = Copy(error.what_without_backtrace());
  } catch (const std::exception& error) {
    *reply = Copy(error.what());
  } catch (...) {
    *reply = Copy("an error without a name");
  }
  return false;
}

WbEngineSession* Open(const char* request, char** reply) {
  WbEngineSession* session = nullptr;
  Guarded(reply, [&] { session = new WbEngineSession(json::parse(request)); });
  return session;
}

int32_t Call(WbEngineSession* session, const char* request, const WbEngineTensor* tensors,
             size_t count, char** reply) {
  const bool done = Guarded(reply, [&] {
    const json answer = session->session.Call(json::parse(request), std::span(tensors, count));
    *reply = Copy(answer.dump());
  });
  return done ? 0 : 1;
}

const float* State(WbEngineSession* session, const char* name, int64_t* shape, int32_t* rank) {
  char* ignored = nullptr;
  const float* values = nullptr;
  Guarded(&ignored, [&] {
    const at::Tensor* state = session->session.State(name);
    if (state == nullptr || state->dim() > WB_ENGINE_MAX_RANK) return;
    session->shown = state->to(at::kCPU, at::kFloat).contiguous();
    *rank = static_cast<int32_t>(session->shown.dim());
    std::copy(session->shown.sizes().begin(), session->shown.sizes().end(), shape);
    values = session->shown.const_data_ptr<float>();
  });
  std::free(ignored);
  return values;
}

void Close(WbEngineSession* session) { delete session; }

int32_t HandleTeamRequest(const char* request, const WbEngineTensor* tensors, size_t count,
                          char** reply) {
  const bool done = Guarded(reply, [&] {
    *reply = Copy(HandleTeam(json::parse(request), std::span(tensors, count)).dump());
  });
  return done ? 0 : 1;
}

void FreeText(char* text) { std::free(text); }

constexpr WbEngine kEngine = {WB_ENGINE_ABI, Open, Call, State, Close, HandleTeamRequest, FreeText};

}  // namespace
}  // namespace weighbridge::engine

extern "C" [[gnu::visibility("default")]] const WbEngine* weighbridge_engine() {
  weighbridge::engine::KeepMemoryOfTensors();
  return &weighbridge::engine::kEngine;
}
