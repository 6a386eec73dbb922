#!/usr/bin/env bash
# Runs tests/oracle: our program against what transformers and Megatron Bridge write.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"
tools/build.sh dev weighbridge torch_dist_tool  # what `make test` has built
python=$(tools/oracle_setup.sh)
tools/engine.sh dev
if "$python" -c 'import nanobind, scikit_build_core' 2>/dev/null; then
  tools/package.sh "$python" --upgrade --target build/oracle-package
fi
say "Running the tests against the original libraries"
export WEIGHBRIDGE_PROGRAM=$root/build/dev/src/weighbridge
export WEIGHBRIDGE_TORCH_DIST_TOOL=$root/build/dev/tests/torch_dist_tool
export WEIGHBRIDGE_PACKAGE=$root/build/oracle-package
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES=
# A file stays in one process, which keeps what its fixtures made; each process computes with one thread.
export OMP_NUM_THREADS=1
exec "$python" -m pytest -q -rs --numprocesses auto --maxprocesses 4 --dist loadfile tests/oracle
