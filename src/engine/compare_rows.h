// The figures of the component (forward/session.h) as rows of a report.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/result.h"
#include "engine/compare.h"
#include "engine/compare_findings.h"
#include "family/model.h"

namespace weighbridge {

// What is not there, or no number, is NaN.
double NumberIn(const nlohmann::json& figures, const char* key);
Noise NoiseOf(const nlohmann::json& figures);

// By the function rule (DESIGN §1). Where the errors of both sides lie in a few elements the RMS is
// luck, and only the limit of the largest errors holds; of fewer than 8 tokens the limits are 16
// and
// 32. A ratio that is no number passes nothing.
bool MeetsFunctionRule(const nlohmann::json& figures);

// Before anything has run: kUsage for a threshold that matches no row that a model of so many
// layers can have. `modules` is what the component says of "modules".
Status CheckThresholds(const std::vector<RatioThreshold>& thresholds, const nlohmann::json& modules,
                       int64_t layers, int64_t mtp_layers);

// Judges the rows that `thresholds` match by these. kUsage for one that matches none.
Status ApplyThresholds(const std::vector<RatioThreshold>& thresholds,
                       std::vector<JudgedModule>& modules);

// `module` empty: the figures are of the whole stage. `dtype`: in which both sides computed.
JudgedModule JudgeModule(const Model& model, StageId stage, const std::string& module,
                         const nlohmann::json& figures, DType dtype);

}  // namespace weighbridge
