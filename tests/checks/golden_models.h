// The small Hugging Face models of tests/testdata/hf, opened with their families.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "checks/inventory.h"
#include "weighbridge/roundtrip.h"

namespace weighbridge {

inline std::filesystem::path TestData() {
  return std::filesystem::path(WEIGHBRIDGE_SOURCE_DIR) / "tests/testdata";
}

// A model and what it refers to.
struct OpenedModel {
  FamilyLibrary library = FamilyLibrary::BuiltIn();
  nlohmann::json config;
  std::unique_ptr<Checkpoint> hf;
  std::unique_ptr<Model> model;
};

inline std::unique_ptr<OpenedModel> OpenGolden(const std::filesystem::path& folder,
                                               ExpandOptions options) {
  auto out = std::make_unique<OpenedModel>();
  auto config = ReadJsonFile(folder / "config.json");
  auto hf = OpenCheckpoint(folder);
  if (!config || !hf) {
    ADD_FAILURE() << "cannot open " << folder;
    return nullptr;
  }
  out->config = std::move(*config);
  out->hf = std::move(*hf);
  auto family = out->library.ForConfig(out->config);
  if (!family) {
    ADD_FAILURE() << family.error().what;
    return nullptr;
  }
  ChooseStorageBy(*out->hf, options);
  auto model = Model::Expand(**family, out->config, options);
  if (!model) {
    ADD_FAILURE() << model.error().what;
    return nullptr;
  }
  out->model = std::make_unique<Model>(std::move(*model));
  return out;
}

inline std::vector<std::string> GoldenNames() {
  return {"llama_tied",       "llama_untied", "qwen2",  "qwen3",      "qwen3_lora",
          "qwen3_moe",        "olmoe",        "gemma2", "gpt_oss_ns", "deepseek_v3",
          "deepseek_v3_nomtp"};
}

}  // namespace weighbridge
