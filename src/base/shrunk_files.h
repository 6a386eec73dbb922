// For a process that is not ours alone (Python): a mapped file that shrinks, or that the disk does
// not give, must not end it. What is read there are zeros, and the caller is told.
#pragma once

#include <cstdint>
#include <string>

namespace weighbridge {

// Installs, once for the process, a handler for SIGBUS. In a file that we have mapped it puts zeros
// where the file has ended and has `tell` called on a thread of its own before the reader goes on;
// any other fault, and every fault in a child process, is left to the handler that was there
// before. `tell` must not wait for the reader. Without a thread to be had nothing is installed.
void SurviveShrunkFiles(void (*tell)());

// The file that shrank since the last call; empty: none. From any thread.
std::string TakeShrunkFile();

// How often that has happened, whoever took it, and to which file last. From any thread.
uint64_t ShrunkFileCount();
std::string LastShrunkFile();

}  // namespace weighbridge
