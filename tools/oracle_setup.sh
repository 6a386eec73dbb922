#!/usr/bin/env bash
# Prints the Python whose environment holds torch 2.11.0 and transformers 5.17.0, made in the cache on
# the first call. Where a Python 3.12 and ../shared/oracles are found it is the environment of these
# oracles, which holds Megatron Bridge too; elsewhere a plain one, and one loud line says so.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
tests=$root/tests/oracle
python=$cache/oracle/bin/python

# holds NAME=VERSION...: whether the environment has these packages in these versions.
holds() {
  [ -x "$python" ] && "$python" - "$@" <<'PYTHON' 2>/dev/null
import importlib.metadata as installed, sys
for name, wanted in (word.split("=") for word in sys.argv[1:]):
    assert installed.version(name).split("+")[0] == wanted
PYTHON
}

make_oracle() {
  if ! holds torch=2.11.0 transformers=5.17.0 megatron-bridge=0.6.2; then
    bash "$shared/oracles/setup.sh" "$cache/oracle"
  fi
  "$python" -m pip install --no-deps --requirement "$tests/requirements-extra.txt"
}

if [ -f "$shared/oracles/setup.sh" ]; then
  if holds torch=2.11.0 transformers=5.17.0 megatron-bridge=0.6.2 pytest=9.2.0 pytest-xdist=3.8.0 \
      ml_dtypes=0.6.0 scikit-build-core=1.1.2 nanobind=3.1.0; then
    printf '%s\n' "$python"
    exit 0
  fi
  for candidate in python3.12 "$HOME"/.pyenv/versions/3.12*/bin/python3.12; do
    # A version manager's stand-in can be in PATH and still refuse to run, so each is tried.
    if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
      step "Making the environment of Megatron Bridge (about 5 minutes, 6 GB)" make_oracle >&2
      printf '%s\n' "$python"
      exit 0
    fi
  done
  say "!!! no Python 3.12 was found: tests against Megatron Bridge are left out, the rest runs" >&2
else
  say "!!! ../shared/oracles is not on this machine: tests against Megatron Bridge are left out, the rest runs" >&2
fi
"$root/tools/venv.sh" oracle "$tests/requirements.txt"
