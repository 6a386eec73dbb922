#!/usr/bin/env python3
"""Writes a corpus of broken safetensors files and model folders, with what must be said of each.

    python3 tools/make_corrupt.py OUT

OUT/expected.json maps each case to
    path   what to open, relative to OUT
    read   "checkpoint" (OpenCheckpoint), or "json" (ReadJsonFile; config.json of a folder)
    id     the error's id
    text   a fragment of the error's text
    exit   1: the checkpoint is bad; 2: no judgement
The output is the same on every run. Python's standard library only.
"""

import json
import struct
import sys
from pathlib import Path

CORRUPT, NO_JUDGEMENT = 1, 2
HEADER, TRUNCATED, OVERLAP = "header-corrupt", "file-truncated", "bytes-overlap"


def pack(header, data=b"", length=None):
    """A file: `header` is a dict, or text or bytes taken as they are."""
    if isinstance(header, dict):
        header = json.dumps(header, separators=(",", ":"))
    if isinstance(header, str):
        header = header.encode()
        header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(begin, end, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape,
            "data_offsets": [begin, end]}


def entry(text):
    """A header with one tensor 'a', whose entry is raw JSON text, and 16 bytes of data."""
    return pack('{"a":' + text + "}", bytes(16))


GOOD = {"a": tensor(0, 8), "b": tensor(8, 16), "c": tensor(16, 24)}
DATA = bytes(range(24))


def files():
    """name -> (bytes, id, text, exit)"""
    yield "empty", b"", TRUNCATED, "the file is empty"
    yield "one_byte", b"\x08", TRUNCATED, "at least 8"
    yield "seven_bytes", bytes(7), TRUNCATED, "at least 8"
    yield "zeros", bytes(4096), HEADER, "header length is 0"
    yield "length_only", struct.pack("<Q", 64), TRUNCATED, "expected 64 bytes of header, found 0"
    yield "length_past_end", pack(GOOD, DATA, length=1000), TRUNCATED, "inside of its header"
    yield "length_2_63", pack(GOOD, DATA, length=1 << 63), HEADER, "9223372036854775808"
    yield "length_max", pack(GOOD, DATA, length=(1 << 64) - 1), HEADER, "18446744073709551615"
    yield "length_max_minus_7", pack(GOOD, DATA, length=(1 << 64) - 8), HEADER, "not a safetensors"
    yield "length_too_short", pack(GOOD, DATA, length=40), HEADER, "does not end with"
    yield "length_too_long", pack(GOOD, DATA, length=len(pack(GOOD))), HEADER, "does not end with"
    yield "cut_in_header", pack(GOOD, DATA)[:60], TRUNCATED, "inside of its header"
    yield "cut_before_data", pack(GOOD), TRUNCATED, "expected 24 bytes of data, found 0"
    yield "cut_last_byte", pack(GOOD, DATA[:-1]), TRUNCATED, "expected 24 bytes of data, found 23"
    yield "extra_byte", pack(GOOD, DATA + b"!"), OVERLAP, "1 bytes at the end belong to no tensor"
    yield "data_without_tensors", pack({}, DATA), OVERLAP, "24 bytes at the end belong to no tensor"

    yield "lfs_pointer", (b"version https://git-lfs.github.com/spec/v1\n"
                          b"oid sha256:" + b"0" * 64 + b"\nsize 988097824\n"), HEADER, "git-lfs pointer"
    yield "html_page", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", HEADER, "HTML page"
    yield "html_lower_case", b"<html><head><title>404</title></head></html>\n", HEADER, "HTML page"
    yield "xml_error", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", HEADER, "XML"
    yield "json_error", b'{"error":"Repository not found"}', HEADER, "JSON text"
    yield "zip_archive", b"PK\x03\x04\x00\x00\x08\x08" + bytes(64), HEADER, "zip archive"
    yield "gguf", b"GGUF\x03\x00\x00\x00" + bytes(64), HEADER, "GGUF"
    yield "pickle", b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s." + bytes(64), HEADER, "not a safetensors"

    yield "starts_with_space", pack(" " + json.dumps(GOOD), DATA), HEADER, "does not start with '{'"
    yield "starts_with_bom", pack(b"\xef\xbb\xbf{}" + b" " * 3), HEADER, "does not start with '{'"
    yield "header_is_list", pack("[]"), HEADER, "does not start with '{'"
    yield "only_open_brace", pack("{"), HEADER, "does not end with"
    yield "nul_padding", pack(json.dumps(GOOD).encode() + bytes(5), DATA), HEADER, "NUL bytes"
    yield "newline_padding", pack(json.dumps(GOOD).encode() + b"\n" * 4, DATA), HEADER, "0x0a"
    yield "trailing_json", pack(json.dumps(GOOD) + "{}", DATA), HEADER, "followed by something else"
    yield "trailing_comma", entry('{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'), HEADER, "not valid"
    yield "missing_colon", entry('{"dtype" "F32","shape":[4],"data_offsets":[0,16]}'), HEADER, "not valid"
    yield "unclosed_object", pack('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}', bytes(16)), \
        HEADER, "not valid"
    yield "unclosed_string", pack('{"a:{}}', b""), HEADER, "inside of a string"
    yield "single_quotes", pack("{'a':{}}", b""), HEADER, "not valid"
    yield "comment", pack('{/* a */"a":{}}', b""), HEADER, "not valid"
    yield "bad_utf8_name", pack(b'{"\xff\xfe":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', bytes(16)), \
        HEADER, "not valid UTF-8"
    yield "overlong_utf8", pack(b'{"\xc0\xaf":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', bytes(16)), \
        HEADER, "not valid UTF-8"
    yield "surrogate_utf8", pack(b'{"\xed\xa0\x80":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', bytes(16)), \
        HEADER, "not valid UTF-8"
    yield "lone_surrogate_escape", pack(b'{"\\ud800":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', bytes(16)), \
        HEADER, "invalid escape"
    yield "bad_escape", pack(b'{"\\x41":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', bytes(16)), \
        HEADER, "invalid escape"
    yield "control_character", pack(b'{"a\x01":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', bytes(16)), \
        HEADER, "control character"
    yield "deep_nesting", pack("[" * 100000), HEADER, "does not start with '{'"
    yield "deep_objects", pack('{"a":' * 100000 + "1" + "}" * 100000), HEADER, "unknown key"
    yield "deep_shape", entry('{"dtype":"F32","shape":' + "[" * 100000 + "]" * 100000 + "}"), \
        HEADER, "'shape'"

    yield "entry_is_null", entry("null"), HEADER, "is not an object"
    yield "entry_is_list", entry("[]"), HEADER, "is not an object"
    yield "entry_is_empty", entry("{}"), HEADER, "has no 'dtype'"
    yield "no_dtype", entry('{"shape":[4],"data_offsets":[0,16]}'), HEADER, "has no 'dtype'"
    yield "no_shape", entry('{"dtype":"F32","data_offsets":[0,16]}'), HEADER, "has no 'shape'"
    yield "no_offsets", entry('{"dtype":"F32","shape":[4]}'), HEADER, "has no 'data_offsets'"
    yield "unknown_key", entry('{"dtype":"F32","shape":[4],"data_offsets":[0,16],"byte_order":"big"}'), \
        HEADER, "unknown key 'byte_order'"
    yield "unknown_dtype", entry('{"dtype":"F128","shape":[1],"data_offsets":[0,16]}'), \
        HEADER, "unknown dtype 'F128'"
    yield "lower_case_dtype", entry('{"dtype":"f32","shape":[4],"data_offsets":[0,16]}'), \
        HEADER, "unknown dtype 'f32'"
    yield "dtype_is_number", entry('{"dtype":32,"shape":[4],"data_offsets":[0,16]}'), HEADER, "not a string"
    yield "shape_is_number", entry('{"dtype":"F32","shape":4,"data_offsets":[0,16]}'), HEADER, "not a list"
    yield "shape_negative", entry('{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}'), \
        HEADER, "not a non-negative integer"
    yield "shape_float", entry('{"dtype":"F32","shape":[4.0],"data_offsets":[0,16]}'), \
        HEADER, "not a non-negative integer"
    yield "shape_string", entry('{"dtype":"F32","shape":["4"],"data_offsets":[0,16]}'), \
        HEADER, "not a non-negative integer"
    yield "shape_leading_zero", entry('{"dtype":"F32","shape":[04],"data_offsets":[0,16]}'), \
        HEADER, "not a non-negative integer"
    yield "shape_above_64_bits", entry('{"dtype":"F32","shape":[36893488147419103232],"data_offsets":[0,16]}'), \
        HEADER, "not a non-negative integer"
    yield "shape_above_int64", entry('{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,16]}'), \
        HEADER, "extent 9223372036854775808"
    yield "shape_product_wraps_to_zero", entry(
        '{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}'), HEADER, "overflows"
    yield "shape_product_wraps_to_four", entry(
        '{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,16]}'), HEADER, "overflows"
    yield "shape_bytes_wrap", entry('{"dtype":"F32","shape":[4611686018427387908],"data_offsets":[0,16]}'), \
        HEADER, "overflows"
    yield "shape_too_small", entry('{"dtype":"F32","shape":[3],"data_offsets":[0,16]}'), HEADER, "needs 12"
    yield "shape_too_large", entry('{"dtype":"F32","shape":[5],"data_offsets":[0,16]}'), HEADER, "needs 20"
    yield "scalar_with_16_bytes", entry('{"dtype":"F32","shape":[],"data_offsets":[0,16]}'), HEADER, "needs 4"
    yield "f4_odd_count", entry('{"dtype":"F4","shape":[31],"data_offsets":[0,16]}'), \
        HEADER, "do not end on a byte"
    yield "f6_not_on_byte", entry('{"dtype":"F6_E2M3","shape":[3],"data_offsets":[0,2]}'), \
        HEADER, "do not end on a byte"
    yield "f4_size_as_bytes", entry('{"dtype":"F4","shape":[16],"data_offsets":[0,16]}'), HEADER, "needs 8"
    yield "offsets_reversed", entry('{"dtype":"F32","shape":[4],"data_offsets":[16,0]}'), \
        HEADER, "end is before the beginning"
    yield "offsets_negative", entry('{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}'), \
        HEADER, "not a non-negative integer"
    yield "offsets_float", entry('{"dtype":"F32","shape":[4],"data_offsets":[0.0,16.0]}'), \
        HEADER, "not a non-negative integer"
    yield "offsets_exponent", entry('{"dtype":"F32","shape":[4],"data_offsets":[0,16e0]}'), \
        HEADER, "not a non-negative integer"
    yield "offsets_one", entry('{"dtype":"F32","shape":[4],"data_offsets":[16]}'), HEADER, "has 1 data_offsets"
    yield "offsets_three", entry('{"dtype":"F32","shape":[4],"data_offsets":[0,8,16]}'), \
        HEADER, "has 3 data_offsets"
    yield "offsets_null", entry('{"dtype":"F32","shape":[4],"data_offsets":null}'), HEADER, "not a list"
    yield "offsets_past_end", pack({"a": tensor(0, 16), "b": tensor(16, 1 << 40, [(1 << 38) - 4])}, bytes(16)), \
        TRUNCATED, "expected 1099511627776 bytes of data"
    yield "offsets_near_2_64", entry(
        '{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}'), \
        OVERLAP, "belong to no tensor"
    yield "first_not_at_zero", pack({"a": tensor(4, 24, [5])}, DATA), OVERLAP, "expected it at 0, found 4"
    yield "hole", pack({"a": tensor(0, 8), "b": tensor(12, 24)}, DATA), OVERLAP, "4 bytes before tensor 'b'"
    yield "overlap", pack({"a": tensor(0, 12), "b": tensor(8, 24)}, DATA), OVERLAP, "claim the same bytes"
    yield "same_bytes", pack({"a": tensor(0, 24), "b": tensor(0, 24)}, DATA), OVERLAP, "claim the same bytes"
    yield "inside_another", pack({"a": tensor(0, 24), "b": tensor(8, 16)}, DATA), OVERLAP, "claim the same bytes"
    yield "empty_tensor_inside_another", pack({"a": tensor(0, 24), "b": tensor(8, 8, [0])}, DATA), \
        OVERLAP, "claim the same bytes"

    yield "name_twice", pack('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                             '"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', bytes(16)), \
        "duplicate-name", "'a' is in the header twice"
    yield "name_twice_escaped", pack('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                                     '"\\u0061":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', bytes(16)), \
        "duplicate-name", "'a' is in the header twice"
    yield "dtype_twice", entry('{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]}'), \
        HEADER, "key 'dtype' twice"
    yield "shape_twice", entry('{"dtype":"F32","shape":[4],"shape":[4],"data_offsets":[0,16]}'), \
        HEADER, "key 'shape' twice"
    yield "offsets_twice", entry('{"dtype":"F32","shape":[4],"data_offsets":[0,16],"data_offsets":[0,16]}'), \
        HEADER, "key 'data_offsets' twice"
    yield "metadata_twice", pack('{"__metadata__":{},"__metadata__":{}}'), HEADER, "appears twice"
    yield "metadata_key_twice", pack('{"__metadata__":{"a":"1","a":"2"}}'), HEADER, "key 'a' twice"
    yield "metadata_number", pack('{"__metadata__":{"step":1}}'), HEADER, "not a string"
    yield "metadata_nested", pack('{"__metadata__":{"a":{"b":"c"}}}'), HEADER, "not a string"
    yield "metadata_list", pack('{"__metadata__":["pt"]}'), HEADER, "not an object of strings"
    yield "metadata_null", pack('{"__metadata__":null}'), HEADER, "not an object of strings"
    yield "metadata_as_tensor", pack({"__metadata__": tensor(0, 24)}, DATA), HEADER, "not a string"


def one(name, count=4, fill=1):
    """A good file with one tensor."""
    return pack({name: tensor(0, 4 * count)}, bytes([fill]) * (4 * count))


def index(weight_map, **more):
    return json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map, **more}, indent=2).encode()


A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = b'{"architectures": ["LlamaForCausalLM"], "hidden_size": 8}'


def folders():
    """name, {file: bytes}, id, text, exit"""
    pair = {A: one("a"), B: one("b")}
    both = index({"a": A, "b": B})
    yield "index_ghost", {**pair, INDEX: index({"a": A, "b": B, "ghost": B})}, \
        "index-ghost", "'ghost' in " + B, CORRUPT
    yield "index_wrong_shard", {**pair, INDEX: index({"a": B, "b": A})}, \
        "index-ghost", "(it is in " + A + ")", CORRUPT
    yield "index_incomplete", {A: one("a"), B: pack({"b": tensor(0, 8), "c": tensor(8, 16)}, bytes(16)),
                               INDEX: both}, "index-incomplete", "holds tensor 'c'", CORRUPT
    yield "shard_missing", {A: one("a"), INDEX: both}, "shard-missing", B, CORRUPT
    yield "all_shards_missing", {INDEX: both}, "shard-missing", "2 of them are not there", CORRUPT
    yield "shard_empty", {A: one("a"), B: b"", INDEX: both}, TRUNCATED, "the file is empty", CORRUPT
    yield "shard_cut", {A: one("a"), B: one("b")[:-4], INDEX: both}, TRUNCATED, "expected 16", CORRUPT
    yield "shard_is_lfs_pointer", {A: one("a"), B: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                                   INDEX: both}, HEADER, "git-lfs pointer", CORRUPT
    yield "name_in_two_shards", {A: one("a"), B: pack({"a": tensor(0, 8), "b": tensor(8, 16)}, bytes(16)),
                                 INDEX: both}, "duplicate-name", "different shapes", CORRUPT
    yield "name_in_two_shards_other_bytes", {A: one("a"), B: pack({"a": tensor(0, 16), "b": tensor(16, 32)}, b"\2" * 32),
                                       INDEX: both}, "duplicate-name", "different bytes", CORRUPT
    yield "index_without_a_shard", {A: one("a"), B: one("b"), INDEX: index({"a": A})}, \
        "index-incomplete", "holds tensor 'b'", CORRUPT
    yield "index_traversal", {**pair, INDEX: index({"a": A, "b": "../good.safetensors"})}, \
        HEADER, "not a plain file name", CORRUPT
    yield "index_absolute", {**pair, INDEX: index({"a": A, "b": "/etc/passwd.safetensors"})}, \
        HEADER, "not a plain file name", CORRUPT
    yield "index_subfolder", {**pair, INDEX: index({"a": A, "b": "sub/" + B})}, \
        HEADER, "not a plain file name", CORRUPT
    yield "index_nul_in_name", {**pair, INDEX: index({"a": A, "b": B + "\0"})}, \
        HEADER, "not a plain file name", CORRUPT
    yield "index_empty_name", {**pair, INDEX: index({"a": A, "b": ""})}, HEADER, "not a plain file name", CORRUPT
    yield "index_names_bin", {**pair, INDEX: index({"a": A, "b": "pytorch_model.bin"})}, \
        "unsupported-format", "not a .safetensors file", NO_JUDGEMENT
    yield "index_empty_file", {**pair, INDEX: b""}, TRUNCATED, "the index is empty", CORRUPT
    yield "index_cut", {**pair, INDEX: both[:-20]}, HEADER, "the index", CORRUPT
    yield "index_html", {**pair, INDEX: b"<!DOCTYPE html><html></html>"}, HEADER, "HTML page", CORRUPT
    yield "index_lfs_pointer", {**pair, INDEX: b"version https://git-lfs.github.com/spec/v1\n"}, \
        HEADER, "git-lfs pointer", CORRUPT
    yield "index_list", {**pair, INDEX: b"[]"}, HEADER, "not a JSON object", CORRUPT
    yield "index_without_map", {**pair, INDEX: b'{"metadata":{}}'}, HEADER, "no 'weight_map'", CORRUPT
    yield "index_empty_map", {**pair, INDEX: index({})}, HEADER, "empty 'weight_map'", CORRUPT
    yield "index_map_is_list", {**pair, INDEX: index([A, B])}, HEADER, "not an object", CORRUPT
    yield "index_maps_to_number", {**pair, INDEX: index({"a": 1})}, HEADER, "not a string", CORRUPT
    yield "index_name_twice", {**pair, INDEX: ('{"weight_map":{"a":"%s","b":"%s","a":"%s"}}' % (A, B, B)).encode()}, \
        "duplicate-name", "lists tensor 'a' twice", CORRUPT
    yield "index_map_twice", {**pair, INDEX: ('{"weight_map":{"a":"%s"},"weight_map":{"b":"%s"}}' % (A, B)).encode()}, \
        HEADER, "'weight_map' twice", CORRUPT
    yield "index_bad_utf8", {**pair, INDEX: b'{"weight_map":{"\xff":"x.safetensors"}}'}, HEADER, "UTF-8", CORRUPT
    yield "index_deep", {**pair, INDEX: b'{"metadata":' + b"[" * 1000000 + b"]" * 1000000 + b"}"}, \
        HEADER, "the index", CORRUPT
    yield "index_trailing", {**pair, INDEX: both + b"x"}, HEADER, "the index", CORRUPT
    yield "series_with_gap", {A: one("a")}, "shard-missing", "1 of 2 shards are there", CORRUPT
    yield "series_name_twice", {A: one("a"), B: one("a", fill=2)}, "duplicate-name", "two shards", CORRUPT
    yield "two_models", {"a.safetensors": one("a"), "b.safetensors": one("b")}, \
        "ambiguous-model", "more than one set", NO_JUDGEMENT
    yield "index_beside_model", {**pair, INDEX: both, "model.safetensors": one("z")}, \
        "ambiguous-model", "more than one set", NO_JUDGEMENT
    yield "empty_folder", {}, "no-weights", "holds no checkpoint", NO_JUDGEMENT
    yield "config_only", {"config.json": CONFIG}, "no-weights", "holds no checkpoint", NO_JUDGEMENT
    yield "pickle_folder", {"pytorch_model.bin": b"PK\x03\x04", "config.json": CONFIG}, \
        TRUNCATED, "does not end with its directory", CORRUPT
    yield "torch_files_without_a_model", {"optimizer.pt": b"PK\x03\x04"}, \
        "unsupported-format", "no pytorch_model.bin", NO_JUDGEMENT
    yield "megatron_folder", {"latest_checkpointed_iteration.txt": b"10"}, \
        "unsupported-format", "Megatron", NO_JUDGEMENT


def configs():
    """name, bytes of config.json or None, id, text, exit"""
    yield "config_missing", None, "not-found", "cannot open", NO_JUDGEMENT
    yield "config_empty", b"", HEADER, "not valid JSON", CORRUPT
    yield "config_cut", CONFIG[:-5], HEADER, "not valid JSON", CORRUPT
    yield "config_trailing", CONFIG + b"}", HEADER, "not valid JSON", CORRUPT
    yield "config_python", b"{'hidden_size': 8}", HEADER, "not valid JSON", CORRUPT
    yield "config_bad_utf8", b'{"a": "\xff"}', HEADER, "not valid JSON", CORRUPT
    yield "config_deep_list", b"[" * 1000000, HEADER, "nested deeper than 200", CORRUPT
    yield "config_deep_objects", b'{"a":' * 1000000, HEADER, "nested deeper than 200", CORRUPT
    yield "config_number_overflow", b'{"eps": 1e999}', HEADER, "not valid JSON", CORRUPT
    yield "config_misplaced_nan", b'{NaN: 1}', HEADER, "not valid JSON", CORRUPT
    yield "config_huge", b" " * (17 << 20), "too-large", "more than", NO_JUDGEMENT


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    expected = {}

    def add(name, path, read, error_id, text, status):
        assert name not in expected, name
        expected[name] = {"path": path, "read": read, "id": error_id, "text": text, "exit": status}

    (out / "good.safetensors").write_bytes(pack(GOOD, DATA))
    for name, content, error_id, text in files():
        (out / f"{name}.safetensors").write_bytes(content)
        add(name, f"{name}.safetensors", "checkpoint", error_id, text, CORRUPT)
    for name, content, error_id, text, status in folders():
        (out / name).mkdir(exist_ok=True)
        for file, data in content.items():
            (out / name / file).write_bytes(data)
        add(name, name, "checkpoint", error_id, text, status)
    for name, content, error_id, text, status in configs():
        (out / name).mkdir(exist_ok=True)
        (out / name / "model.safetensors").write_bytes(one("a"))
        if content is not None:
            (out / name / "config.json").write_bytes(content)
        add(name, f"{name}/config.json", "json", error_id, text, status)
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
