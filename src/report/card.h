// A verification card: the YAML file that stands beside a model and says what was verified and how.
#pragma once

#include "checks/result.h"
#include "report/sink.h"

namespace weighbridge {

// The layout follows the model verification cards of Megatron Bridge (title, model, precision,
// summary, items with status, command and expected_result), so that the item can be pasted into
// one. An item is `verified` only when the verdict is 'pass'. Neither date nor time nor memory is
// in it: the same result gives the same bytes.
void WriteCard(const Report& report, const Sink& sink);

}  // namespace weighbridge
