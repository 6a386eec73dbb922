#!/usr/bin/env bash
# build.sh PRESET [TARGET...]: configures once and builds with a preset of CMakePresets.json.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
preset=$1
shift
cd "$root"
if [ ! -f "build/$preset/build.ninja" ]; then
  step "Configuring ($preset)" cmake --preset "$preset"
fi
jobs=${WEIGHBRIDGE_JOBS:-$(nproc)}
step "Building ($preset)" cmake --build --preset "$preset" -j "$jobs" --target "${@:-all}"
