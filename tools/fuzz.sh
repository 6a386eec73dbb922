#!/usr/bin/env bash
# fuzz.sh [SECONDS]: runs every libFuzzer target for that long (60), from its committed corpus.
# A crash is kept in build/fuzz/crashes and fails.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"
seconds=${1:-60}
tools/build.sh fuzz
mkdir -p build/fuzz/crashes
ran=0
for target in build/fuzz/fuzz/*_fuzzer; do
  [ -x "$target" ] || continue
  name=$(basename "$target" _fuzzer)
  mkdir -p "build/fuzz/corpus/$name" "fuzz/corpus/$name"
  step "Fuzzing $name for $seconds s" "$target" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=2048 -artifact_prefix="build/fuzz/crashes/$name-" \
    "build/fuzz/corpus/$name" "fuzz/corpus/$name"
  ran=$((ran + 1))
done
if [ "$ran" -eq 0 ]; then
  say "error: no fuzz target was built, nothing was run" >&2
  exit 2
fi
