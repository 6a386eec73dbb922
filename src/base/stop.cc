#include "base/stop.h"

namespace weighbridge {
namespace {

thread_local const StopFlag* current = nullptr;

}  // namespace

StopScope::StopScope(const StopFlag* flag) : before_(current) { current = flag; }

StopScope::~StopScope() { current = before_; }

const StopFlag* CurrentStop() { return current; }

bool StopRequested() { return current != nullptr && current->load(std::memory_order_relaxed); }

Error Interrupted() { return {ErrorKind::kUsage, "interrupted", "interrupted", "", ""}; }

}  // namespace weighbridge
