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

// MemAvailable of /proc/meminfo in bytes: what programs can still have; 0 where the system does not
// tell.
uint64_t AvailableMemory();

// How --memory is spent: on each of `threads` threads so many blocks of `bytes` are in flight.
struct BlockBudget {
  int threads = 1;
  int64_t bytes = 0;
};

// Blocks of at most `max_bytes`; where they would become smaller than 64 KiB fewer threads work.
// threads <= 0: as many as the process may use.
BlockBudget DivideMemory(int64_t memory_bytes, int threads, int blocks_per_thread,
                         int64_t max_bytes);

}  // namespace weighbridge
