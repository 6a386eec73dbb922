#!/usr/bin/env bash
# Fails when a tracked C++ file is not formatted as .clang-format says (clang-format 14).
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t files < <(git ls-files '*.cc' '*.h')
if [ ${#files[@]} -eq 0 ]; then
  echo "error: no C++ file is tracked, nothing was checked" >&2
  exit 1
fi
clang-format --dry-run -Werror "${files[@]}"
echo "format: ${#files[@]} files, 0 problems"
