// Between the program and the engine component, a shared library of its own that sees libtorch. C
// only: no exception and no C++ object crosses, for both may have a C++ runtime of their own.
// Requests and replies are JSON; tensors are bytes that the caller owns.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Raised with every change of what crosses here, the meaning of requests included.
#define WB_ENGINE_ABI 3
#define WB_ENGINE_MAX_RANK 8
#define WB_ENGINE_ENTRY "weighbridge_engine"
// Stand in the library's bytes, each followed by its value and a zero: the version of torch that it
// was built with, and that torch's folder. Read before the library is loaded, for one of another
// minor version would crash.
#define WB_ENGINE_TORCH_MARK "weighbridge-engine-torch-version="
#define WB_ENGINE_FOLDER_MARK "weighbridge-engine-torch-folder="

extern "C" {

// Contiguous, row-major, little-endian. `dtype` is a weighbridge::DType.
struct WbEngineTensor {
  const char* name;
  const void* data;
  int32_t dtype;
  int32_t rank;
  int64_t shape[WB_ENGINE_MAX_RANK];
};

struct WbEngineSession;

struct WbEngine {
  int32_t abi;
  // A model pair under comparison. nullptr, and *reply is the error.
  WbEngineSession* (*open)(const char* request, char** reply);
  // 0: *reply is the answer; else it is the error. What each request means: forward/session.h.
  int32_t (*call)(WbEngineSession* session, const char* request, const WbEngineTensor* tensors,
                  size_t count, char** reply);
  // A float32 tensor that the session keeps under `name`, valid until the next call; nullptr: there
  // is none. Its shape goes to `shape` (WB_ENGINE_MAX_RANK numbers) and `rank`.
  const float* (*state)(WbEngineSession* session, const char* name, int64_t* shape, int32_t* rank);
  void (*close)(WbEngineSession* session);
  // This process as a rank of a run on several; what each request means: parallel/requests.h. The
  // sessions of the leader that are opened then run the candidate on all ranks. As `call`.
  int32_t (*team)(const char* request, const WbEngineTensor* tensors, size_t count, char** reply);
  void (*free_text)(char* text);
};

typedef const WbEngine* (*WbEngineEntry)(void);
}
