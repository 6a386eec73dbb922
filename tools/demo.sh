#!/usr/bin/env bash
# What weighbridge does, in three commands on a model of 1 billion random parameters: makes the
# model, takes it there and back on a parallel grid, and finds one byte that was changed in a copy.
set -euo pipefail
# shellcheck source=tools/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$root"
export PATH=$root/build/release/src:$PATH
out=build/demo
mkdir -p "$out"

# run COMMAND...: shows the command as one would type it, runs it, and keeps its exit status in $status.
run() {
  printf '\n$ %s\n' "$*"
  status=0
  "$@" || status=$?
}

# want STATUS: the demo ends here when the last command gave another status.
want() {
  if [ "$status" -ne "$1" ]; then
    say "The demo stops: exit status $status, expected $1." >&2
    exit 1
  fi
}

# Llama-3.2-1B's shape: 1.24 billion parameters, 2.47 GB in bf16; two copies lie on the disk.
hidden=2048 layers=16 heads=32 kv_heads=8 ffn=8192 vocab=128256 needed_kib=5500000
rm -rf "$out/changed"
free_kib=$(df -Pk "$out" | awk 'NR == 2 { print $4 }')
[ -d "$out/model" ] && needed_kib=2800000
if [ "$free_kib" -lt "$needed_kib" ]; then
  hidden=512 layers=4 heads=8 kv_heads=2 ffn=2048 vocab=32000
  say "Only $((free_kib / 1000)) MB of disk are free here, and the 1-billion-parameter demo takes" \
    "$((needed_kib / 1000)) MB more: a smaller model stands in."
fi
shape="$hidden-$layers-$heads-$kv_heads-$ffn-$vocab"

say ""
say "1. A random Llama with the shape of Llama-3.2-1B, as a Hugging Face folder."
if [ "$(cat "$out/model.shape" 2>/dev/null)" = "$shape" ]; then
  say "   It is there from an earlier run: $out/model"
else
  rm -rf "$out/model" "$out/model.shape"
  run weighbridge toy "$out/model" --family llama --dtype bf16 --seed 1 \
    --set hidden_size=$hidden --set num_hidden_layers=$layers --set num_attention_heads=$heads \
    --set num_key_value_heads=$kv_heads --set head_dim=64 --set intermediate_size=$ffn \
    --set vocab_size=$vocab --set tie_word_embeddings=true
  want 0
  echo "$shape" >"$out/model.shape"
fi

say ""
say "2. There and back: every tensor is cut for 2 tensor-parallel x 2 pipeline-parallel ranks in"
say "   Megatron-Core's layout, joined again and compared with the original, bit for bit."
run weighbridge roundtrip "$out/model" --tp 2 --pp 2 \
  --html "$out/roundtrip.html" --json "$out/roundtrip.json"
want 0

say ""
say "3. One byte in the middle of a copy is changed, and diff finds it (exit status 1)."
cp -r --reflink=auto "$out/model" "$out/changed"
# The largest file is the model itself or its first shard.
file=$(find "$out/changed" -name '*.safetensors' -printf '%s %p\n' | sort -rn | awk 'NR == 1 { print $2 }')
python3 - "$file" <<'PYTHON'
import os, sys
with open(sys.argv[1], "r+b") as f:
    place = os.path.getsize(sys.argv[1]) // 2
    f.seek(place)
    old = f.read(1)[0]
    f.seek(place)
    f.write(bytes([old ^ 0x40]))
print(f"   {sys.argv[1]}: byte {place}: 0x{old:02x} -> 0x{old ^ 0x40:02x}")
PYTHON
run weighbridge diff "$out/model" "$out/changed" --html "$out/diff.html" --json "$out/diff.json"
want 1
rm -rf "$out/changed"

say ""
say "The reports of both commands:"
for file in "$out"/*.html "$out"/*.json; do say "  $file"; done
say "The model stays in $out/model ($(du -sh "$out/model" | cut -f1)); 'make clean' removes it."
