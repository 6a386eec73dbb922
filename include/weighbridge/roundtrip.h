// The public face of conversion checks: open a Hugging Face checkpoint, apply a family to its
// config, place the model on a parallel grid, and move every byte there and back.
//
//   auto library = weighbridge::FamilyLibrary::BuiltIn();
//   auto hf = weighbridge::OpenCheckpoint("Llama-3.2-1B");
//   auto family = library.ForConfig(config);  // the parsed config.json
//   auto model = weighbridge::Model::Expand(**family, config, {.tp = 2});
//   auto report = weighbridge::RoundTrip(*model, **hf, {.grid = {.tp = 2, .pp = 2}});
//
// ImportTree gives what each rank holds in memory; VerifyTree judges such a tree, whoever made it.
// Every function returns Result<T>; none throws. Objects are immutable and may be used from any
// thread.
#pragma once

#include "checks/megatron_tree.h"
#include "checks/result.h"
#include "checks/roundtrip.h"
#include "family/library.h"
#include "family/model.h"
#include "family/shards.h"
#include "formats/checkpoint.h"
