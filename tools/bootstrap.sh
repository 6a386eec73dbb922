#!/usr/bin/env bash
# Installs what the build and the tests need and is missing: Debian packages by apt, simdjson's two
# source files by pip into the cache. Does nothing, quickly, when all is there.
# usage: bootstrap.sh [--dev]    --dev: also clang, clang-format, clang-tidy and shellcheck
# Exit status: 0 all is there; 2 something is missing and cannot be installed from here.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"

packages=(g++ cmake ninja-build ccache mold libcli11-dev libfmt-dev libexpected-dev
  nlohmann-json3-dev libtomlplusplus-dev libyaml-cpp-dev libxxhash-dev libdeflate-dev libgtest-dev
  libgmock-dev libbenchmark-dev librapidcheck-dev python3-dev python3-venv python3-pip ca-certificates)
if [ "${1:-}" = --dev ]; then packages+=(clang libclang-rt-dev clang-format clang-tidy shellcheck); fi

missing_packages() {
  comm -23 <(printf '%s\n' "${packages[@]}" | sort) \
    <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null |
      sed -n 's/^installed //p' | sort)
}

install_packages() {
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -y)
  if [ "$(id -u)" -ne 0 ]; then apt=(sudo -n "${apt[@]}"); fi
  "${apt[@]}" update
  "${apt[@]}" install --no-install-recommends "$@"
}

fetch_simdjson() {
  local folder=$1 work
  mkdir -p "$(dirname "$folder")"
  work=$(mktemp -d "$folder.partial-XXXXXX")
  python3 -m pip download --no-deps --no-binary pysimdjson --require-hashes \
    -r "$root/tools/simdjson.txt" -d "$work"
  tar -xzf "$work"/pysimdjson-*.tar.gz -C "$work" --strip-components=2 --wildcards \
    '*/simdjson/simdjson.h' '*/simdjson/simdjson.cpp'
  rm "$work"/pysimdjson-*.tar.gz
  chmod 755 "$work"
  rm -rf "$folder"
  mv "$work" "$folder"
}

if command -v dpkg-query >/dev/null; then
  mapfile -t missing < <(missing_packages)
  if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null; then
      say "error: ${#missing[@]} Debian packages are missing and this user may not install them" >&2
      say "  hint: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
      exit 2
    fi
    step "Installing ${#missing[@]} Debian packages" install_packages "${missing[@]}"
  fi
else
  say "note: not a Debian system, so nothing is installed here; needed are the counterparts of: ${packages[*]}" >&2
fi

simdjson=${WEIGHBRIDGE_SIMDJSON_DIR:-$cache/deps/simdjson}
if [ ! -f "$simdjson/simdjson.cpp" ] || [ ! -f "$simdjson/simdjson.h" ]; then
  if [ -n "${WEIGHBRIDGE_SIMDJSON_DIR:-}" ]; then
    say "error: WEIGHBRIDGE_SIMDJSON_DIR holds no simdjson.h and simdjson.cpp" >&2
    say "  at: $simdjson" >&2
    exit 2
  fi
  step "Fetching the sources of simdjson" fetch_simdjson "$simdjson"
fi
