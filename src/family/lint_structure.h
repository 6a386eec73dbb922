// Faults of a family as a whole that no config can mend: definitions in a circle, names that do not
// tell layers apart, rules that no layer can ever use.
#pragma once

#include <string>

#include "base/result.h"
#include "family/spec.h"

namespace weighbridge {

// kInvalid "family-file", at the family's file, and the line where it is not 0.
tl::unexpected<Error> BadFamily(const FamilySpec& spec, std::string what, int line = 0);

// The first fault, with the table and the rule. Every name that the family uses must be known.
Status LintStructure(const FamilySpec& spec);

}  // namespace weighbridge
