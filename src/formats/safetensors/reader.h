// Opens safetensors files and folders as a Checkpoint. Files are mapped, tensors are read in place;
// a tensor's bytes need not be aligned (the format allows any header length).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "formats/checkpoint.h"

namespace weighbridge {

// True when `path` is a file that starts like, or is named like, safetensors, or a folder that
// holds at least one *.safetensors file or a *.safetensors.index.json.
bool ProbeSafetensors(const std::filesystem::path& path);

// Opens
//  - a .safetensors file, or a *.index.json with the shards beside it;
//  - a folder: its model.safetensors.index.json, else model.safetensors, else the only index, the
//  only
//    complete set NAME-0000i-of-0000N.safetensors, or the only *.safetensors file in it.
// A folder that holds two sets to choose from is kUsage: readers disagree on which one counts, so
// the user names the file. Files of the folder that do not belong are extra_files() and a note.
// Errors: those of header.h and index.h; kCorrupt shard-missing, index-ghost (the index lists a
// tensor that its shard does not hold), index-incomplete (a shard holds a tensor that the index
// does not list; one that the index does not name, of the same numbered series, included),
// duplicate-name (in two shards, with different bytes; equal ones are a note).
Result<std::unique_ptr<Checkpoint>> OpenSafetensors(const std::filesystem::path& path);

}  // namespace weighbridge
