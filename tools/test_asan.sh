#!/usr/bin/env bash
# The core rooms' tests and the seeds of every fuzz target under AddressSanitizer and
# UndefinedBehaviorSanitizer.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"
rooms=()
for room in base tensor formats mapping family checks; do
  if compgen -G "tests/$room/*_test.cc" >/dev/null; then rooms+=("$room"); fi
done
mapfile -t fuzzed < <(basename -s _fuzz.cc fuzz/*_fuzz.cc)
tools/build.sh asan weighbridge "${rooms[@]/%/_tests}" "${fuzzed[@]/%/_fuzzer}"
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1
for room in "${rooms[@]}"; do
  step "Testing $room (sanitized)" "build/asan/tests/${room}_tests" --gtest_brief=1
  tail -n 1 "$logs/Testing-$room-sanitized-.log"
done
for target in "${fuzzed[@]}"; do
  step "Replaying the seeds of $target (sanitized)" "build/asan/fuzz/${target}_fuzzer" "fuzz/corpus/$target"
done
