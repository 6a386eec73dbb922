#!/usr/bin/env bash
# Writes tests/testdata/megatron_versions: small checkpoints by earlier versions of megatron-core, on CPU. Makes an
# environment per version in the cache (each about 4 GB, of which torch is most) and needs that of the oracle kit
# (tools/oracle_setup.sh). About 15 minutes, most of it downloads.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
target=${1:-$root/tests/testdata/megatron_versions}
oracles=$shared/oracles
python312=
for candidate in python3.12 "$HOME"/.pyenv/versions/3.12*/bin/python3.12; do
  if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
    python312=$candidate
    break
  fi
done
[ -n "$python312" ] || { say "no Python 3.12 was found"; exit 1; }

# environment VERSION TORCH NUMPY: each with the torch of its day.
environment() {
  local folder=$cache/mcore-$1
  [ -f "$folder/.complete" ] && return
  rm -rf "$folder"
  "$python312" -m venv "$folder"
  "$folder/bin/python" -m pip install "torch==$2" "numpy$3" packaging safetensors einops psutil setuptools pybind11
  # Of 0.12 there is a source package only, which asks the python3 of PATH for pybind11.
  PATH=$folder/bin:$PATH "$folder/bin/python" -m pip install --no-deps --no-build-isolation "megatron-core==$1"
  touch "$folder/.complete"
}

# save VERSION NAME TARGET OPTION...
save() {
  local version=$1 name=$2 folder=$target/$1/$3
  shift 3
  rm -rf "$folder"
  # 0.15 asks which CUDA devices to compile for even where there is none.
  CUDA_VISIBLE_DEVICES='' TORCH_CUDA_ARCH_LIST=9.0 "$cache/mcore-$version/bin/python" \
    "$root/tools/make_old_versions.py" save "$oracles" "$sources/$name.safetensors" "$folder" "$@"
}

everything() {
  local version name
  for name in llama_tied qwen3_moe deepseek_v3_nomtp; do
    CUDA_VISIBLE_DEVICES='' "$oracle" "$root/tools/make_old_versions.py" dump "$oracles" \
      "$root/tests/testdata/hf/$name" "$sources/$name.safetensors"
    for version in 0.12.3 0.15.3 0.17.1; do save "$version" "$name" "$name"; done
  done
  save 0.12.3 qwen3_moe qwen3_moe-local --spec local
  save 0.12.3 llama_tied llama_tied-optimizer --optimizer
  save 0.15.3 qwen3_moe qwen3_moe-numbered --numbered
  save 0.17.1 llama_tied llama_tied-local_numbered --spec local --numbered
}

oracle=$("$root/tools/oracle_setup.sh")
sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
step "Environment of megatron-core 0.12.3" environment 0.12.3 2.6.0 '<2'
step "Environment of megatron-core 0.15.3" environment 0.15.3 2.8.0 '<2'
step "Environment of megatron-core 0.17.1" environment 0.17.1 2.10.0 ''
step "Checkpoints" everything
