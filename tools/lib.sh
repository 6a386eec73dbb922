# Sourced by the scripts of this folder and by .ci/run: where things lie, and quiet steps with a log.
# shellcheck shell=bash disable=SC2034
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export WEIGHBRIDGE_CACHE=${WEIGHBRIDGE_CACHE:-$HOME/.cache/weighbridge}
cache=$WEIGHBRIDGE_CACHE
logs=$root/build/logs
shared=$root/../shared
export LC_ALL=C.UTF-8
# Compiled objects are shared between checkouts: paths are made relative to this one.
export CCACHE_DIR=${CCACHE_DIR:-$cache/ccache}
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$root} CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-2G}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
mkdir -p "$logs" "$cache"

# step TITLE COMMAND...: runs COMMAND quietly and says how long it took; when it fails, shows the end
# of its log and exits with its status.
step() {
  local title=$1 start=$SECONDS log status
  shift
  log=$logs/$(tr -cs 'a-zA-Z0-9\n' '-' <<<"$title").log
  printf '%s ... ' "$title"
  set +e  # not `|| status=$?`: that would switch errexit off inside COMMAND
  (
    set -e
    "$@"
  ) >"$log" 2>&1 </dev/null
  status=$?
  set -e
  if [ "$status" -ne 0 ]; then
    printf 'FAILED (status %d)\n' "$status"
    tail -n 40 "$log" >&2
    printf 'The whole log: %s\n' "$log" >&2
    exit "$status"
  fi
  printf '%d s\n' $((SECONDS - start))
}

# say SENTENCE...: one line of progress.
say() { printf '%s\n' "$*"; }
