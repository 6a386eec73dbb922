// The process's anonymous memory: what the program allocates, without the pages of mapped files.
#pragma once

#include <cstdint>

namespace weighbridge {

// RssAnon of /proc/self/status in bytes, now; 0 where the system does not tell.
uint64_t AnonymousBytes();

// The largest AnonymousBytes() seen so far. The first call starts a background thread that samples
// every 20 ms; each call takes one sample too. A peak between two samples may be missed.
// Thread-safe. Call it once at the start of a command and once at its end.
uint64_t PeakAnonymousBytes();

}  // namespace weighbridge
