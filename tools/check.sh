#!/usr/bin/env bash
# Every check that needs no build. All of them run; the exit status is 1 when one failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
failed=()
python3 tools/check_layers.py || failed+=("layers")
python3 tools/check_names.py || failed+=("names")
tools/check_format.sh || failed+=("format: run \`make format\`")
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
if shellcheck -x "${scripts[@]}"; then
  echo "scripts: ${#scripts[@]} files, 0 problems"
else
  failed+=("scripts")
fi
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
