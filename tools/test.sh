#!/usr/bin/env bash
# Builds the tests and runs ctest and the pytest files of tests/python and tests/package. All of them always
# run; the exit status is non-zero when one of them failed.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"
tools/build.sh dev
python=$(tools/venv.sh test tests/python/requirements.txt)
package=$(tools/venv.sh package tests/package/requirements.txt)
tools/package.sh "$package"

failed=()
say "Running the C++ tests"
ctest --test-dir build/dev -j "$(nproc)" --output-on-failure --progress >"$logs/ctest.log" 2>&1 ||
  failed+=("ctest")
if [ ${#failed[@]} -gt 0 ]; then
  tr '\r' '\n' <"$logs/ctest.log" | grep -vE 'Test +#[0-9]+:.*Passed|^ +Start +[0-9]+:' |
    tail -n 200
else
  tail -n 4 "$logs/ctest.log"
fi
say "Running the Python tests"
export WEIGHBRIDGE_PROGRAM=$root/build/dev/src/weighbridge
export WEIGHBRIDGE_SAFETENSORS_TOOL=$root/build/dev/tests/safetensors_tool
"$python" -m pytest -q -rs tests/python || failed+=("pytest")
say "Running the tests of the Python package"
"$package" -m pytest -q -rs tests/package || failed+=("pytest of the package")

if [ ${#failed[@]} -gt 0 ]; then
  say "FAILED: ${failed[*]}"
  exit 1
fi
say "All tests passed."
