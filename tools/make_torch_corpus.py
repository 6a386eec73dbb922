#!/usr/bin/env python3
"""Writes broken torch files, each with the error that a reader has to give.

    python3 tools/make_torch_corpus.py OUT

OUT/NAME.pt; OUT/expected.json holds id, text and kind ("corrupt" or "unsupported"). OUT/good_*.pt are sound, made in the same way.
Nothing but the standard library; what torch really writes is in tests/testdata/torch.
"""
import json
import struct
import sys
import zlib
from pathlib import Path

ZIP, STORAGE, PICKLE, TRUNCATED = "header-corrupt", "storage-invalid", "pickle-refused", "file-truncated"
FORMAT, TENSOR = "unsupported-format", "unsupported-tensor"


# ---------------------------------------------------------------- pickles

def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(values):
    return b"(" + b"".join(number(v) for v in values) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def storage(key="0", kind=name("torch", "FloatStorage"), numel=6, location="cpu"):
    return b"(" + text("storage") + kind + text(key) + text(location) + number(numel) + b"tQ"


def tensor(stored=None, offset=number(0), size=numbers([2, 3]), stride=numbers([3, 1]), rebuild="_rebuild_tensor_v2", more=b""):
    stored = storage() if stored is None else stored
    return name("torch._utils", rebuild) + b"(" + stored + offset + size + stride + b"\x89N" + more + b"tR"


def state_dict(*tensors):
    entries = b"".join(text(f"t{i}") + t for i, t in enumerate(tensors))
    return b"\x80\x02}(" + entries + b"u."


# ---------------------------------------------------------------- zips

def local(filename, content, method=0, flags=0, crc=None, size=None, extra=b"", local_name=None):
    crc = zlib.crc32(content) if crc is None else crc
    size = len(content) if size is None else size
    shown = filename if local_name is None else local_name
    return struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, flags, method, 0, 0, crc, size, size, len(shown), len(extra)) \
        + shown + extra + content


def entry(filename, content, at, method=0, flags=0, crc=None, size=None, extra=b"", disk=0, csize=None):
    crc = zlib.crc32(content) if crc is None else crc
    size = len(content) if size is None else size
    csize = size if csize is None else csize
    return struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, flags, method, 0, 0, crc, csize, size, len(filename), len(extra),
                       0, disk, 0, 0, at) + filename + extra


def end(count, size, at, comment=b"", disk=0, count_here=None):
    return struct.pack("<IHHHHIIH", 0x06054B50, disk, disk, count if count_here is None else count_here, count, size, at,
                       len(comment)) + comment


def end64(count, size, at, begin, locator_at=None, total=1, count_here=None):
    record = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 30, 45, 0, 0, count if count_here is None else count_here, count, size, at)
    return record + struct.pack("<IIQI", 0x07064B50, 0, begin if locator_at is None else locator_at, total)


DATA = struct.pack("<6f", *range(6))
PKL = state_dict(tensor())
MEMBERS = [(b"archive/data.pkl", PKL), (b"archive/byteorder", b"little"), (b"archive/data/0", DATA), (b"archive/version", b"3\n")]


def build(members=MEMBERS, local_options=None, entry_options=None, before=b"", between=b"", directory_tail=b"", tail=b"", end_options=None,
          wide=None, order=None):
    """A zip of `members`; the options (by member's number) put faults into it."""
    body, places = before, []
    for i, (filename, content) in enumerate(members):
        places.append(len(body))
        body += local(filename, content, **(local_options or {}).get(i, {})) + (between if i == 1 else b"")
    entries = []
    for i, (filename, content) in enumerate(members):
        options = dict((entry_options or {}).get(i, {}))
        at = options.pop("at", places[i])
        entries.append(entry(options.pop("filename", filename), content, at, **options))
    directory = b"".join(entries[i] for i in order or range(len(entries))) + directory_tail
    begin = len(body)
    body += directory
    if wide is not None:
        body += end64(len(members), len(directory), begin, len(body), **wide)
    ends = {"count": len(members), "size": len(directory), "at": begin}
    ends.update(end_options or {})
    return body + end(**ends) + tail


def with_pickle(pickle, *more):
    return build([(b"archive/data.pkl", pickle), *MEMBERS[1:], *more])


def with_tensor(*arguments, **options):
    return with_pickle(state_dict(tensor(*arguments, **options)))


def descriptor(content, crc=None, size=None, wide=False, signature=True):
    kind = "<IQQ" if wide else "<III"
    size = len(content) if size is None else size
    fields = struct.pack(kind, zlib.crc32(content) if crc is None else crc, size, size)
    return (struct.pack("<I", 0x08074B50) if signature else b"") + fields


def described(after):
    """The second member has its sizes behind it, as `after`."""
    return build(local_options={1: {"flags": 8, "crc": 0, "size": 0}}, entry_options={1: {"flags": 8}}, between=after)


def good():
    yield "plain", build()
    yield "zip64", build(wide={})
    yield "zip64_marked", build(wide={}, end_options={"count": 0xFFFF, "size": 0xFFFFFFFF, "at": 0xFFFFFFFF})
    yield "comment", build(end_options={"comment": b"made by hand"})
    yield "directory_in_another_order", build(order=[2, 0, 3, 1])
    for wide in (False, True):
        yield f"descriptor_{wide}", described(descriptor(b"little", wide=wide))
    wide_sizes = struct.pack("<HHQQ", 1, 16, len(DATA), len(DATA))
    wide_all = struct.pack("<HHQQQ", 1, 24, len(DATA), len(DATA), len(local(*MEMBERS[0])) + len(local(*MEMBERS[1])))
    yield "zip64_fields", build(local_options={2: {"size": 0xFFFFFFFF, "extra": wide_sizes}},
                                entry_options={2: {"size": 0xFFFFFFFF, "at": 0xFFFFFFFF, "extra": wide_all}})
    yield "no_byteorder", build([m for m in MEMBERS if m[0] != b"archive/byteorder"])
    yield "empty_folder_member", build([*MEMBERS, (b"archive/data/", b"")])
    yield "checksum_not_written", build(local_options={0: {"crc": 0}}, entry_options={0: {"crc": 0}})
    yield "size_as_torch_size", with_tensor(size=name("torch", "Size") + numbers([2, 3]) + b"\x85R")
    yield "cuda_storage", with_tensor(storage(kind=name("torch.cuda", "FloatStorage"), location="cuda:0"))
    yield "rebuild_v1", with_pickle(state_dict(name("torch._utils", "_rebuild_tensor") + b"(" + storage() + number(0)
                                               + numbers([2, 3]) + numbers([3, 1]) + b"tR"))


# ---------------------------------------------------------------- broken zips

def corrupt_zips():
    sound = build()
    yield "empty", b"", TRUNCATED, "the file is empty"
    yield "only_signature", b"PK\3\4", TRUNCATED, "does not end with its directory"
    yield "half", sound[:len(sound) // 2], TRUNCATED, "does not end with its directory"
    yield "last_byte_missing", sound[:-1], TRUNCATED, "does not end with its directory"
    yield "zeros_behind", sound + bytes(100), TRUNCATED, "does not end with its directory"
    yield "bytes_behind", build(tail=b"x"), TRUNCATED, "does not end with its directory"
    yield "second_zip_behind", sound + sound, ZIP, "does not reach to its end"
    yield "bytes_before", b"PK\3\4" + sound, ZIP, "does not reach to its end"
    yield "bytes_before_counted", build(before=b"PK\3\4 hidden"), ZIP, "11 bytes before its first member"
    yield "bytes_between", build(between=b"hidden"), ZIP, "6 bytes that are no member's"
    yield "hidden_member", build(between=local(b"archive/data/9", b"secret")), ZIP, "no member's"
    yield "comment_length_wrong", sound[:-2] + b"\5\0", TRUNCATED, "does not end with its directory"
    yield "member_twice", build([*MEMBERS, MEMBERS[2]]), ZIP, "'archive/data/0' twice"
    yield "member_listed_twice", build(entry_options={2: {"at": 0, "filename": b"archive/data/0"}}), ZIP, "contradicts"
    yield "two_members_at_one_place", build(local_options={1: {"local_name": b"archive/data/0"}},
                                            entry_options={2: {"at": len(local(*MEMBERS[0])), "size": 6, "crc": zlib.crc32(b"little")}}), \
        ZIP, "contradicts"
    yield "names_differ", build(local_options={2: {"local_name": b"archive/data/1"}}), ZIP, "'archive/data/0' that its directory"
    yield "size_too_large", build(entry_options={2: {"size": 25}}), ZIP, "contradicts"
    yield "size_too_large_in_both", build(local_options={2: {"size": 25}}, entry_options={2: {"size": 25}}), ZIP, "overlaps"
    yield "size_too_small_in_both", build(local_options={2: {"size": 20}}, entry_options={2: {"size": 20}}), ZIP, "4 bytes that are no"
    yield "size_behind_the_end", build(local_options={2: {"size": 2**31}}, entry_options={2: {"size": 2**31}}), ZIP, "behind the end"
    yield "size_of_64_bits", build(entry_options={2: {"size": 2**32 - 1, "extra": struct.pack("<HHQQ", 1, 16, 2**64 - 1, 2**64 - 1)}}), \
        ZIP, "behind the end"
    yield "size_that_wraps", build(entry_options={2: {"size": 2**32 - 1, "extra": struct.pack("<HHQQ", 1, 16, 2**64 - 70, 2**64 - 70)}}), \
        ZIP, "behind the end"
    yield "two_sizes", build(entry_options={2: {"csize": 23}}), ZIP, "two sizes"
    yield "zip64_field_short", build(entry_options={2: {"size": 2**32 - 1, "extra": struct.pack("<HHQ", 1, 8, 24)}}), ZIP, "too short"
    yield "zip64_field_cut", build(entry_options={2: {"size": 2**32 - 1, "extra": struct.pack("<HH", 1, 200)}}), ZIP, "behind the end"
    yield "header_behind_the_end", build(entry_options={2: {"at": 2**31}}), ZIP, "no member 'archive/data/0'"
    yield "header_in_the_data", build(entry_options={2: {"at": 3}}), ZIP, "no member 'archive/data/0'"
    yield "header_of_64_bits", build(entry_options={2: {"at": 2**32 - 1, "extra": struct.pack("<HHQ", 1, 8, 2**64 - 8)}}), ZIP, "no member"
    yield "method_differs", build(local_options={2: {"method": 8}}), ZIP, "contradicts"
    yield "flags_differ", build(local_options={2: {"flags": 8}}), ZIP, "contradicts"
    yield "checksum_differs", build(local_options={2: {"crc": 5}}), ZIP, "contradicts"
    yield "checksum_of_pickle", build(local_options={0: {"crc": 5}}, entry_options={0: {"crc": 5}}), ZIP, "checksum of data.pkl"
    yield "descriptor_missing", described(b""), ZIP, "descriptor of no known size"
    yield "descriptor_checksum", described(descriptor(b"little", crc=5)), ZIP, "contradicts"
    yield "descriptor_size", described(descriptor(b"little", size=7)), ZIP, "contradicts"
    yield "descriptor_signature", described(b"PK\7\7" + descriptor(b"little")[4:]), ZIP, "contradicts"
    yield "descriptor_without_signature", described(descriptor(b"little", signature=False)), ZIP, "no known size"
    yield "descriptor_without_signature_wide", described(descriptor(b"little", signature=False, wide=True)), ZIP, "no known size"
    yield "descriptor_long", described(descriptor(b"little") + b"x"), ZIP, "no known size"
    yield "more_entries_than_said", build(end_options={"count": 3}), ZIP, "more than its members"
    yield "fewer_entries_than_said", build(end_options={"count": 5}), ZIP, "cut or none"
    yield "entries_huge", build(end_options={"count": 0xFFFF}), ZIP, "for 65535 members"
    yield "entries_64_huge", build(wide={"count_here": 2**64 - 1}), ZIP, "two ends that disagree"
    yield "entries_here_differ", build(end_options={"count_here": 3}), ZIP, "two numbers of members"
    yield "directory_size_huge", build(end_options={"size": 2**32 - 1}), ZIP, "does not reach"
    yield "directory_before_the_file", build(end_options={"at": 2**32 - 1}), ZIP, "does not reach"
    yield "directory_tail", build(directory_tail=b"hidden"), ZIP, "more than its members"
    yield "zip64_locator_wrong", build(wide={"locator_at": 7}), ZIP, "no ZIP64 end"
    yield "zip64_locator_huge", build(wide={"locator_at": 2**64 - 10}), ZIP, "no ZIP64 end"
    yield "zip64_disagrees", build(wide={}, end_options={"count": 3}), ZIP, "two ends that disagree"
    yield "no_members", end(0, 0, 0), "header-corrupt", "does not begin like"
    yield "no_pickle", build(MEMBERS[1:]), ZIP, "no data.pkl"
    yield "pickle_at_the_root", build([(b"data.pkl", PKL), *MEMBERS[1:]]), ZIP, "no data.pkl"
    yield "pickle_in_a_deeper_folder", build([(b"a/b/data.pkl", PKL), *MEMBERS[1:]]), ZIP, "no data.pkl"
    yield "two_pickles", build([*MEMBERS, (b"other/data.pkl", PKL)]), ZIP, "two data.pkl"
    yield "html", b"<!DOCTYPE html><html></html>", "header-corrupt", "HTML page"
    yield "lfs_pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "header-corrupt", "git-lfs pointer"
    yield "noise", bytes(range(1, 100)), "header-corrupt", "does not begin like"


def unsupported():
    deflated = zlib.compress(PKL)[2:-4]
    yield "compressed", build([(b"archive/data.pkl", deflated), *MEMBERS[1:]], local_options={0: {"method": 8}},
                              entry_options={0: {"method": 8, "size": len(PKL), "csize": len(deflated)}}), FORMAT, "is compressed"
    yield "encrypted", build(local_options={2: {"flags": 1}}, entry_options={2: {"flags": 1}}), FORMAT, "is encrypted"
    yield "on_another_disk", build(entry_options={2: {"disk": 1}}), FORMAT, "several files"
    yield "end_on_another_disk", build(end_options={"disk": 1}), FORMAT, "several files"
    yield "zip64_of_two_disks", build(wide={"total": 2}), FORMAT, "several files"
    yield "big_endian", build([MEMBERS[0], (b"archive/byteorder", b"big"), *MEMBERS[2:]]), FORMAT, "byte order is 'big'"
    yield "torchscript", build([*MEMBERS, (b"archive/constants.pkl", PKL)]), FORMAT, "TorchScript"
    yield "before_1_6", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", FORMAT, "before 1.6"
    yield "plain_pickle", b"\x80\x04N.", FORMAT, "plain pickle"
    yield "root_is_a_list", with_pickle(b"\x80\x02]."), FORMAT, "holds a list"
    yield "root_is_an_object", with_pickle(b"\x80\x02cargparse\nNamespace\n)R."), FORMAT, "object of 'argparse.Namespace'"
    yield "python2_ordered_dict", with_pickle(b"\x80\x02ccollections\nOrderedDict\n]" + text("a") + tensor() + b"\x86a\x85R."), \
        FORMAT, "object of 'collections.OrderedDict'"
    yield "value_is_no_tensor", with_pickle(b"\x80\x02}" + text("step") + b"K\x05s."), FORMAT, "'step' is a value"
    yield "key_is_no_name", with_pickle(b"\x80\x02}K\x05" + tensor() + b"s."), FORMAT, "a key of the dict"
    yield "sparse", with_tensor(rebuild="_rebuild_sparse_tensor"), TENSOR, "_rebuild_sparse_tensor"
    yield "on_meta", with_tensor(storage(location="meta")), TENSOR, "device 'meta'"
    yield "quantized_storage", with_tensor(storage(kind=name("torch", "QInt8Storage"))), TENSOR, "QInt8Storage"
    yield "unknown_dtype", with_tensor(storage(kind=name("torch.storage", "UntypedStorage"), numel=24), rebuild="_rebuild_tensor_v3",
                                       more=name("torch", "float4_e2m1fn_x2")), TENSOR, "float4_e2m1fn_x2"
    yield "conjugate", with_tensor(more=b"}" + text("conj") + b"\x88s"), TENSOR, "conjugate"
    yield "subclass", with_pickle(state_dict(name("torch._tensor", "_rebuild_from_type_v2") + b"(" + name("torch._utils", "_rebuild_tensor_v2")
                                             + name("collections", "OrderedDict") + b")Nt" + b"R")), TENSOR, "of class 'collections.OrderedDict'"
    yield "expanded_to_a_terabyte", with_tensor(size=numbers([2**38, 2]), stride=numbers([0, 1])), TENSOR, "not contiguous"


def corrupt_storages():
    yield "key_missing", with_tensor(storage(key="7")), STORAGE, "no storage 'data/7'"
    yield "key_walks_up", with_tensor(storage(key="../data.pkl")), STORAGE, "no storage 'data/../data.pkl'"
    yield "key_is_a_number", with_tensor(b"(" + text("storage") + name("torch", "FloatStorage") + number(0) + text("cpu") + number(6) + b"tQ"), \
        STORAGE, "without a storage"
    yield "storage_too_short", with_tensor(storage(numel=7)), STORAGE, "has 24 bytes, the pickle says 7"
    yield "storage_too_long", with_tensor(storage(numel=5)), STORAGE, "has 24 bytes, the pickle says 5"
    yield "storage_negative", with_tensor(storage(numel=-6)), STORAGE, "without a storage"
    yield "storage_huge", with_tensor(storage(numel=2**63 - 1)), STORAGE, "has 24 bytes"
    yield "storage_of_other_kind", with_tensor(b"(" + text("module") + name("torch", "FloatStorage") + text("0") + text("cpu") + number(6) + b"tQ"), \
        STORAGE, "without a storage"
    yield "storage_is_text", with_tensor(text("0")), STORAGE, "without a storage"
    yield "storage_is_a_class", with_tensor(name("torch", "FloatStorage")), STORAGE, "without a storage"
    yield "persistent_id_of_four", with_tensor(b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"tQ"), \
        STORAGE, "without a storage"
    yield "persistent_id_is_text", with_tensor(b"P0\n"), STORAGE, "without a storage"
    yield "class_is_text", with_tensor(storage(kind=text("torch.FloatStorage"))), STORAGE, "without a storage"
    yield "untyped_without_dtype", with_tensor(storage(kind=name("torch.storage", "UntypedStorage"), numel=24)), STORAGE, "without a dtype"
    yield "shape_too_large", with_tensor(size=numbers([3, 3])), STORAGE, "reaches behind its storage of 24"
    yield "shape_overflows", with_tensor(size=numbers([2**62, 4])), STORAGE, "overflows"
    yield "bytes_overflow", with_tensor(size=numbers([2**62]), stride=numbers([1])), STORAGE, "overflows"
    yield "shape_negative", with_tensor(size=numbers([-2, 3])), STORAGE, "size is not of integers"
    yield "shape_of_text", with_tensor(size=b"(" + text("2") + text("3") + b"t"), STORAGE, "size is not of integers"
    yield "shape_of_bools", with_tensor(size=b"\x88\x88\x86"), STORAGE, "size is not of integers"
    yield "shape_is_a_list", with_tensor(size=b"](" + number(2) + number(3) + b"e"), STORAGE, "size is no tuple"
    yield "stride_too_large", with_tensor(stride=numbers([4, 1])), STORAGE, "reaches behind"
    yield "stride_overflows", with_tensor(stride=numbers([2**63 - 1, 2**63 - 1])), STORAGE, "reaches behind"
    yield "stride_negative", with_tensor(stride=numbers([-3, 1])), STORAGE, "stride is not of integers"
    yield "stride_of_other_length", with_tensor(stride=numbers([1])), STORAGE, "different lengths"
    yield "offset_too_large", with_tensor(offset=number(1)), STORAGE, "from element 1 reaches behind"
    yield "offset_huge", with_tensor(offset=number(2**63 - 1)), STORAGE, "reaches behind"
    yield "offset_negative", with_tensor(offset=number(-1)), STORAGE, "offset is no integer"
    yield "offset_is_text", with_tensor(offset=text("0")), STORAGE, "offset is no integer"
    yield "too_few_arguments", with_pickle(state_dict(name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage() + b"tR")), STORAGE, "too few"
    yield "no_arguments", with_pickle(state_dict(name("torch._utils", "_rebuild_tensor_v2") + b")R")), STORAGE, "too few"
    yield "v3_without_dtype", with_tensor(storage(kind=name("torch.storage", "UntypedStorage"), numel=24), rebuild="_rebuild_tensor_v3"), \
        STORAGE, "too few"
    yield "parameter_of_nothing", with_pickle(state_dict(name("torch._utils", "_rebuild_parameter") + b")R")), STORAGE, "no tensor"
    nested = tensor()
    for _ in range(20):
        nested = name("torch._utils", "_rebuild_parameter") + b"(" + nested + b"\x88NtR"
    yield "parameter_in_parameters", with_pickle(state_dict(nested)), STORAGE, "Parameter in a Parameter"
    cycle = name("torch._utils", "_rebuild_parameter") + b"(]q\x00h\x00a\x88NtR"
    yield "parameter_of_a_cycle", with_pickle(state_dict(cycle)), STORAGE, "no tensor"
    yield "name_twice", with_pickle(b"\x80\x02}(" + (text("a") + tensor()) * 2 + b"u."), "duplicate-name", "'a' is"
    yield "pickle_runs_code", with_pickle(b"\x80\x02cos\nsystem\n" + text("echo pwned") + b"\x85R."), PICKLE, "'os.system'"
    yield "hook_runs_code", with_pickle(state_dict(tensor(more=name("os", "system") + text("x") + b"\x85R"))), PICKLE, "'os.system'"
    yield "pickle_cut", with_pickle(PKL[:-5]), "header-corrupt", "end before the value"


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    expected = {}
    for kind, group in (("corrupt", corrupt_zips()), ("unsupported", unsupported()), ("corrupt", corrupt_storages())):
        for title, content, identifier, words in group:
            assert title not in expected, title
            (out / f"{title}.pt").write_bytes(content)
            expected[title] = {"id": identifier, "text": words, "kind": kind}
    for title, content in good():
        (out / f"good_{title}.pt").write_bytes(content)
    (out / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
