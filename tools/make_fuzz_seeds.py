#!/usr/bin/env python3
"""Writes the small seeds of fuzz/corpus/{safetensors_header,safetensors_index,json,pickle,torch_file}.

    python3 tools/make_fuzz_seeds.py fuzz/corpus

They are the files of make_corrupt.py, make_pickle_corpus.py and make_torch_corpus.py that are small enough, and a few good ones. Same output on every run.
"""

import pickle
import sys
from pathlib import Path

import make_corrupt as corrupt
import make_pickle_corpus as pickles
import make_torch_corpus as torch_files

LIMIT = 1024

GOOD_JSON = {
    "config": corrupt.CONFIG,
    "not_finite": b'{"time_step_limit": [0.0, Infinity], "x": [NaN, -Infinity, "NaN"]}',
    "kinds": '{"a": [1, -2.5e3, true, false, null, "\\u00e9 \\ud83d\\ude00 \u00e9"], "b": {"c": {}}}'.encode(),
}


def headers():
    yield "good", corrupt.pack({"__metadata__": {"format": "pt"}, **corrupt.GOOD}, corrupt.DATA)
    yield "no_tensors", corrupt.pack({})
    dtypes = ["F4", "F6_E2M3", "F8_E4M3", "F8_E8M0", "BF16", "C64", "U64", "BOOL"]
    bits = [4, 6, 8, 8, 16, 64, 64, 8]
    header, end = {}, 0
    for dtype, width in zip(dtypes, bits):
        header[dtype.lower()] = corrupt.tensor(end, end + width // 2, [2, 2], dtype)
        end += width // 2
    yield "dtypes", corrupt.pack(header, bytes(end))
    for name, content, *_ in corrupt.files():
        yield name, content


def indexes():
    yield "good", corrupt.index({"a": corrupt.A, "b": corrupt.B})
    for name, content, *_ in corrupt.folders():
        if corrupt.INDEX in content:
            yield name, content[corrupt.INDEX]


def texts():
    yield from GOOD_JSON.items()
    yield "deep", b"[" * 300
    for name, content, *_ in corrupt.configs():
        if content:
            yield name, content


def pickle_files():
    for name, value in pickles.GOOD.items():
        for protocol in (0, 2, 5):
            yield f"good_{name}.{protocol}", pickle.dumps(value, protocol)
    for name, content, *_ in pickles.all_bad():
        if not name.startswith(("truncated", "underflow", "call_", "disguise", "half", "no_mark")):
            yield name, content


def torch_archives():
    # Without a checksum, a fuzzer reaches the pickle.
    bare = {"local_options": {0: {"crc": 0}}, "entry_options": {0: {"crc": 0}}}
    yield "good_bare", torch_files.build(**bare)
    untyped = torch_files.storage(kind=torch_files.name("torch.storage", "UntypedStorage"), numel=24)
    v3 = torch_files.tensor(untyped, rebuild="_rebuild_tensor_v3", more=torch_files.name("torch", "bfloat16"))
    strided = torch_files.tensor(size=torch_files.numbers([3, 2]), stride=torch_files.numbers([1, 3]))
    content = torch_files.state_dict(torch_files.tensor(), v3, strided)
    yield "good_three", torch_files.build([(torch_files.MEMBERS[0][0], content), *torch_files.MEMBERS[1:]], **bare)
    yield from ((f"good_{name}", content) for name, content in torch_files.good())
    for group in (torch_files.corrupt_zips(), torch_files.unsupported()):
        yield from ((name, content) for name, content, *_ in group)


def main(out):
    for folder, seeds in (("safetensors_header", headers()), ("safetensors_index", indexes()), ("json", texts()),
                          ("pickle", pickle_files()), ("torch_file", torch_archives())):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for name, content in seeds:
            if len(content) <= LIMIT:
                (out / folder / name).write_bytes(content)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
