#!/usr/bin/env bash
# Fails when a tracked C++ file is not formatted as .clang-format says (clang-format 14), and lists it.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t files < <(git ls-files '*.cc' '*.h')
if [ ${#files[@]} -eq 0 ]; then
  echo "error: no C++ file is tracked, nothing was checked" >&2
  exit 1
fi
status=0
said=$(clang-format --dry-run -Werror "${files[@]}" 2>&1) || status=1
if [ "$status" -ne 0 ]; then
  grep -oE '^[^: ]+:[0-9]+' <<<"$said" | awk -F: '!seen[$1]++ { print $1 ":" $2 ": not formatted" }'
fi
echo "format: ${#files[@]} files, $([ "$status" -eq 0 ] && echo 0 problems || echo 'some not formatted')"
exit "$status"
