#!/usr/bin/env bash
# package.sh PYTHON [PIP_OPTION...]: installs the Python package for the interpreter PYTHON, whose environment
# has the build's needs (tests/package/requirements.txt). Compiled like `dev`, so that the objects come
# out of the compiler's cache.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
python=$1
shift
export CXX=c++  # as CMake calls it by itself: the cache tells compilers apart by name
version=$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
step "Installing the Python package ($version)" "$python" -m pip install --no-deps --no-build-isolation \
  --force-reinstall --config-settings build-dir="build/py$version" --config-settings cmake.build-type=RelWithDebInfo \
  --config-settings 'cmake.define.CMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1' --config-settings cmake.define.WEIGHBRIDGE_WERROR=ON \
  --config-settings cmake.define.WEIGHBRIDGE_SHARED_FMT=ON "$@" "$root" >&2
