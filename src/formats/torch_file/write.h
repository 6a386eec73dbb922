// Writes what torch.save of torch 2.11 writes, byte for byte: a ZIP of stored members, each with
// its data at a multiple of 64 bytes from the ZIP's beginning. Local headers hold no sizes and no
// CRC (a descriptor behind the data does), so everything before a tensor's bytes is known before
// them. FORMAT.md of formats/torch_dist has the layout.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/pickle/write.h"
#include "formats/torch_file/stored_zip.h"
#include "tensor/tensor.h"

namespace weighbridge {

// The attribute of module torch: "float32". kUnsupported for the dtypes that it has no element type
// for (packed 4 and 6 bits).
Result<std::string_view> TorchDTypeName(DType dtype);

// The object that torch.save makes of a contiguous tensor which owns the whole storage data/KEY.
// The dtype must have passed TorchDTypeName and the shape CheckedNumel.
void PickleTensor(pickle::Writer& pickle, DType dtype, const Shape& shape, std::string_view key);

// A file with the pickle `data_pkl` and the storages data/0, data/1, ... `archive` is the folder
// inside of it: torch.save takes the file's name without its ending, or "archive" when it writes
// into a buffer.
std::string TorchSave(std::string_view archive, std::string_view data_pkl,
                      std::span<const std::string> storages = {});

// What TorchSave puts before the storages, and behind them: for storages that are too large to pass
// through here (stored_zip.h: BeginData).
void BeginTorchArchive(StoredZip& zip, std::string_view data_pkl);
std::string FinishTorchArchive(StoredZip& zip);

// torch.save(tensor, buffer) without the tensor's bytes:  head, data, Tail(CRC-32 of the data).
struct TorchTensorZip {
  std::string head;
  uint64_t data_bytes = 0;
  uint64_t tail_bytes = 0;

  uint64_t nbytes() const { return head.size() + data_bytes + tail_bytes; }
  std::string Tail(uint32_t crc) const;

  uint32_t pickle_crc = 0, pickle_bytes = 0;  // what Tail repeats of the head
};

// kUnsupported as TorchDTypeName; kInvalid when the size overflows.
Result<TorchTensorZip> PlanTorchTensor(DType dtype, const Shape& shape);

}  // namespace weighbridge
