// Checks of a family that need the whole of it: names of transforms, rules, functions, stacks,
// kinds, symbols. A family that passes can still disagree with a config; that is found at
// expansion.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "family/spec.h"

namespace weighbridge {

// The first fault, as kInvalid with file and line of the rule.
Status LintFamily(const FamilySpec& spec);

}  // namespace weighbridge
