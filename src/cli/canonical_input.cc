#include "cli/canonical_input.h"

#include <filesystem>
#include <utility>

#include "checks/inventory.h"
#include "formats/checkpoint.h"

namespace weighbridge::cli {
namespace {

namespace fs = std::filesystem;

Result<Model> ExpandPrimary(const CanonicalInput& input, const Model& stored, bool without_mtp) {
  ExpandOptions expand;
  expand.pad_vocab = stored.padded_vocab();
  expand.without_mtp = without_mtp;
  return Model::Expand(input.family(), input.config(), expand);
}

Result<Model> ExpandHf(const ModelInput& input, bool without_mtp) {
  ExpandOptions expand;
  ChooseStorageBy(*input.checkpoint, expand);
  expand.without_mtp = without_mtp;
  return Model::Expand(*input.family, input.config, expand);
}

}  // namespace

uint64_t CanonicalInput::Bytes() const {
  uint64_t bytes = 0;
  for (const CanonicalTensor& t : tensors->tensors()) bytes += t.bytes();
  return bytes;
}

void CanonicalInput::Describe(Report& report) const {
  const ModelInput* model = hf ? hf.get() : megatron->like.get();
  if (model != nullptr) DescribeInput(*model, report);
  const auto files = hf ? hf->checkpoint->files() : megatron->checkpoint->identity();
  for (const FileInfo& file : files) {
    report.inputs.push_back({file.path.string(), file.nbytes, file.header_xxh3, std::nullopt});
  }
  report.details.emplace_back("family", family().name);
  report.details.emplace_back(
      "format", std::string(hf ? hf->checkpoint->format() : megatron->checkpoint->format()));
}

Result<std::unique_ptr<CanonicalInput>> OpenCanonical(const MegatronArguments& arguments,
                                                      const CanonicalOptions& options) {
  auto input = std::make_unique<CanonicalInput>();
  WB_TRY(const fs::path path, ResolveModelPath(arguments.megatron));
  if (LooksLikeMegatron(path)) {
    WB_TRY(input->megatron, OpenMegatronInput(arguments));
    input->notes = input->megatron->notes;
    WB_TRY(input->stored, ExpandModel(*input->megatron, options.without_mtp));
  } else {
    WB_TRY(input->hf, OpenModelInput(arguments.megatron, arguments.families, arguments.config));
    WB_TRY(input->stored, ExpandHf(*input->hf, options.without_mtp));
  }
  WB_TRY(input->primary, ExpandPrimary(*input, *input->stored, options.without_mtp));
  if (input->hf) {
    WB_TRY(input->tensors, CanonicalTensors::OfHf(*input->primary, *input->stored,
                                                  *input->hf->checkpoint, options));
  } else {
    WB_TRY(input->tensors, CanonicalTensors::OfMegatron(*input->primary, *input->stored,
                                                        *input->megatron->checkpoint, options));
  }
  return input;
}

}  // namespace weighbridge::cli
