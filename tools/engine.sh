#!/usr/bin/env bash
# engine.sh PRESET: builds the program and the engine component beside it, which compares running models. torch is that of
# the environment of tests/oracle where there is one, else it is installed into one of its own (about 6 GB).
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
preset=$1
cd "$root"

# torch_folder PYTHON: the folder of its torch package, if it is the version that the engine is built with.
torch_folder() {
  "$1" - "$(sed -n 's/^torch==//p' tests/engine/requirements.txt)" <<'PYTHON' 2>/dev/null
import importlib.metadata, importlib.util, pathlib, sys
assert importlib.metadata.version("torch").split("+")[0] == sys.argv[1]
print(pathlib.Path(importlib.util.find_spec("torch").origin).parent)
PYTHON
}

if ! folder=$(torch_folder "$cache/oracle/bin/python"); then
  folder=$(torch_folder "$(tools/venv.sh engine tests/engine/requirements.txt)")
fi
step "Configuring ($preset, engine)" cmake --preset "$preset" -DWEIGHBRIDGE_ENGINE=ON "-DWEIGHBRIDGE_TORCH_DIR=$folder"
tools/build.sh "$preset" weighbridge weighbridge_engine
