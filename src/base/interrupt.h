// What an interrupted program leaves behind: nothing. Paths of unfinished output are registered
// while they exist; on SIGINT, SIGTERM or SIGHUP they are removed and the process ends.
#pragma once

#include <filesystem>

namespace weighbridge {

// Starts the thread that waits for SIGINT, SIGTERM and SIGHUP, save those that the parent had
// ignored (nohup), and blocks them in the calling thread and those that it starts later; call it
// first in main. On a signal it removes what is registered, clears the progress line of a terminal,
// says "interrupted" on stderr and ends the process with 128 + the signal's number (130 for
// SIGINT). Without a thread to be had the process ends the same way and leaves partial output where
// it is.
void HandleInterrupts();

// A file or folder that is to disappear when the process is interrupted. From any thread.
void RegisterUnfinished(const std::filesystem::path& path);
void ForgetUnfinished(const std::filesystem::path& path);

// What a signal is to say besides: that something is kept. A literal.
void SayWhenInterrupted(const char* text);

}  // namespace weighbridge
