// Whose code a rule of a bridge runs: Megatron Bridge's own, which is known, or somebody else's.
#pragma once

#include <string>
#include <vector>

#include "checks/bridge_dump.h"
#include "checks/mapping_classes.h"

namespace weighbridge {

// The class that `rule` converts as; nullptr where code that is not known has a say.
const MappingClass* KnownClassOf(const RegistryRule& rule);

// The same, whatever it holds: what its own methods read.
const MappingClass* ClassByCode(const RegistryRule& rule);

// The class beside which `rule` was tried and did something else to made-up tensors, of the one
// that it would convert as; nullptr where it was not tried, or did the same.
const MappingClass* ClassThatItChanges(const RegistryRule& rule);

// "m.MyMapping in _mapping, m.Other in _parts[0]": what it holds besides what its class builds.
std::string HeldText(const RegistryRule& rule);

// The code that is not known, "my_bridge.MyMapping.hf_to_megatron"; where there is none but the
// class is not known either, the class.
std::vector<std::string> OwnCodeOf(const RegistryRule& rule);

}  // namespace weighbridge
