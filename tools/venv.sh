#!/usr/bin/env bash
# venv.sh NAME REQUIREMENTS: prints the Python of a virtual environment in the cache that holds
# exactly these requirements. It is made on the first call; its name carries the hash of every
# requirements file beneath tests/ (one may include another).
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
name=$1 requirements=$2
key=$({ python3 -V; cat "$requirements" "$root"/tests/*/requirements.txt; } | sha256sum | cut -c1-12)
folder=$cache/venv/$name-$key

make_venv() {
  rm -rf "$folder"
  mkdir -p "$cache/venv"
  python3 -m venv "$folder"
  "$folder/bin/python" -m pip install --requirement "$requirements"
  touch "$folder/.complete"
}

if [ ! -f "$folder/.complete" ]; then
  step "Making the Python environment '$name'" make_venv >&2
fi
printf '%s\n' "$folder/bin/python"
