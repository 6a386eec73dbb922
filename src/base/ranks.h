// One job that runs as several processes, its ranks: who this process is, and how the ranks agree.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace weighbridge {

struct Launch {
  int rank = 0, size = 1;
  std::string job;       // names the job to its ranks; "" when the launcher does not tell
  std::string launcher;  // "torchrun"; "" when there is none
};

using Environment = std::function<const char*(const char*)>;

// The values of DetectLaunch's `launcher`, "auto" first.
std::vector<std::string> LauncherNames();

// Reads the variables that `launcher` sets; "auto": of the first that set them, "none": of none.
// own: WEIGHBRIDGE_RANK, WEIGHBRIDGE_WORLD_SIZE, WEIGHBRIDGE_JOB_ID; torchrun: RANK, WORLD_SIZE;
// openmpi: OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE; pmi (MPICH, Intel MPI): PMI_RANK, PMI_SIZE;
// slurm: SLURM_PROCID, SLURM_STEP_NUM_TASKS, both of an srun step only. kUsage when they are no
// ranks, or are not there for a launcher that was named.
Result<Launch> DetectLaunch(const std::string& launcher, const Environment& environment);

// How the ranks of a job meet. Gather and Broadcast are called by all ranks in the same order, from
// one thread each. Once a rank ended with an error or was killed every call on every rank fails
// with an error that names it.
class Coordinator {
 public:
  virtual ~Coordinator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Rank 0 prints results, and publishes.
  bool first() const { return rank() == 0; }

  // The texts of all ranks in their order on rank 0; nothing elsewhere.
  virtual Result<std::vector<std::string>> Gather(const std::string& text) = 0;
  // Rank 0's text, everywhere.
  virtual Result<std::string> Broadcast(const std::string& text) = 0;
  Status Barrier();

  // The error of another rank, if there is one. Cheap; any thread. Long work asks now and then.
  virtual Status Check() = 0;
  // Ends the job with an error of this rank. Returns the one that all ranks end with.
  virtual Error Abort(const Error& error) = 0;
  // Whether this rank is to print the error that the job ended with: rank 0, and every other one
  // once rank 0 is lost.
  virtual bool Speaks() = 0;
};

// A job of one process.
std::unique_ptr<Coordinator> Alone();

// Divides pieces of the given sizes among `ranks`: the owner of each. The largest go first, each to
// the rank with the least; equal input gives equal output everywhere.
std::vector<int> AssignByBytes(const std::vector<uint64_t>& bytes, int ranks);

}  // namespace weighbridge
