#!/usr/bin/env python3
"""Writes pickles, good and hostile, with what a reader has to say of them.

    python3 tools/make_pickle_corpus.py OUT

OUT/good/NAME.pkl were written by Python's own `pickle` at protocols 0 to 5; OUT/good.json holds what they describe.
OUT/bad/NAME.pkl were made by hand; OUT/bad.json holds id and text of the error. No file is ever loaded here.
"""
import argparse
import collections
import json
import math
import pickle
import struct
import sys
from pathlib import Path

INVALID, REFUSED = "header-corrupt", "pickle-refused"


# ---------------------------------------------------------------- good ones

def shared():
    inner = [1, 2]
    return [inner, inner, (inner,)]


def cycle():
    loop = [1]
    loop.append(loop)
    return loop


def namespace():
    return argparse.Namespace(hidden_size=64, lr=1e-4, name="m\u00e9", nested={"a": [None]})


def filled():
    ordered = collections.OrderedDict(a=1, b=2)
    ordered.version = 3
    return ordered


GOOD = {
    "none": None,
    "bools": [True, False],
    "integers": [0, 1, -1, 255, 256, 65535, 65536, -128, -129, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53 + 1,
                 2**63 - 1, -(2**63)],
    "floats": [0.0, -0.0, 1.5, -2.25e-300, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 0.1],
    "strings": ["", "plain", "m\u00e9gatron", "\U0001f680 \u4e2d", "line\nfeed\\u0041 'quote' \"", "\x00\x1a", "x" * 300],
    "bytes": [b"", b"\x00\xff", bytes(range(256)), b"y" * 300],
    "bytearrays": [bytearray(), bytearray(b"\x00\xff")],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), ((),))],
    "lists": [[], [1], [[1, [2, [3]]]], list(range(2500))],
    "dicts": [{}, {"a": 1}, {1: "x", (2, 3): None, "k": {"k": {}}}, {str(i): i for i in range(2500)}],
    "sets": [set(), {7}, frozenset(), frozenset([8])],
    "nested": {"model": [{"w": (1, 2.5, b"z")}, ("a", ["b", {"c": None}])]},
    "shared": shared(),
    "cycle": cycle(),
    "namespace": namespace(),
    "ordered": filled(),
}


def describe_number(value):
    return {"float": struct.pack(">d", value).hex()} if isinstance(value, float) else value


def call(name, *arguments, state=None, items=(), entries=()):
    return {"call": name, "arguments": list(arguments), "state": state, "items": list(items), "entries": list(entries)}


def describe_text(value, protocol):
    if isinstance(value, bytearray):
        if protocol >= 5:
            return {"bytes": value.hex()}
        if not value:
            return call("builtins.bytearray")
        return call("builtins.bytearray", describe_text(bytes(value), protocol))
    if protocol >= 3:
        return {"bytes": value.hex()}
    return call("_codecs.encode", value.decode("latin-1"), "latin1") if value else call("builtins.bytes")


def describe(value, protocol, above=()):
    """What the pickle of `value` describes: like `value`, with calls where the protocol has no opcode for a kind."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return describe_number(value)
    if isinstance(value, (bytes, bytearray)):
        return describe_text(value, protocol)
    if id(value) in above:
        return {"above": len(above) - above.index(id(value))}
    above = (*above, id(value))

    def each(items):
        return [describe(item, protocol, above) for item in items]

    if isinstance(value, list):
        return {"list": each(value)}
    if isinstance(value, tuple):
        return {"tuple": each(value)}
    if isinstance(value, (set, frozenset)):
        name = type(value).__name__
        return {"set": each(value)} if protocol >= 4 else call("builtins." + name, {"list": each(value)})
    if isinstance(value, collections.OrderedDict):
        return call("collections.OrderedDict", state={"dict": [["version", 3]]},
                    entries=[each(entry) for entry in value.items()])
    if isinstance(value, argparse.Namespace):
        return call("argparse.Namespace", state={"dict": [each(entry) for entry in vars(value).items()]})
    return {"dict": [each(entry) for entry in value.items()]}


def write_good(out):
    expected = {}
    for name, value in GOOD.items():
        for protocol in range(6):
            (out / "good" / f"{name}.{protocol}.pkl").write_bytes(pickle.dumps(value, protocol))
            expected[f"{name}.{protocol}"] = describe(value, protocol)
    (out / "good.json").write_text(json.dumps(expected))


# ---------------------------------------------------------------- hostile ones

def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value)


def text(value):
    encoded = value.encode()
    return b"X" + u32(len(encoded)) + encoded


def short(value):
    encoded = value.encode()
    return b"\x8c" + bytes([len(encoded)]) + encoded


def name_of(module, name):
    return f"c{module}\n{name}\n".encode()


def stack_name(module, name):
    return short(module) + short(name) + b"\x93"


def calls(function, argument=b")"):
    return b"\x80\x02" + function + argument + b"R."


ORDERED = name_of("collections", "OrderedDict")
COMMAND = b"(" + text("echo pwned") + b"t"


def names():
    """Names that run code or open files when they are called, in every opcode that can name one."""
    for module, name in [("os", "system"), ("posix", "system"), ("nt", "system"), ("os", "popen"), ("os", "execv"),
                         ("subprocess", "Popen"), ("subprocess", "check_output"), ("builtins", "eval"),
                         ("builtins", "exec"), ("builtins", "getattr"), ("builtins", "__import__"),
                         ("builtins", "open"), ("builtins", "compile"), ("builtins", "setattr"),
                         ("builtins", "globals"), ("importlib", "import_module"), ("operator", "attrgetter"),
                         ("functools", "partial"), ("types", "FunctionType"), ("types", "CodeType"),
                         ("sys", "exit"), ("shutil", "rmtree"), ("webbrowser", "open"), ("runpy", "_run_code"),
                         ("pickle", "loads"), ("_pickle", "loads"), ("marshal", "loads"), ("code", "interact"),
                         ("pty", "spawn"), ("socket", "socket"), ("ctypes", "CDLL"), ("timeit", "timeit"),
                         ("torch", "load"), ("torch.hub", "load"), ("torch.serialization", "load"),
                         ("torch", "Storage"), ("torch.storage", "open"), ("numpy.testing._private.utils", "runstring"),
                         ("megatron.core", "os"), ("copyreg", "add_extension"), ("copyreg", "__reduce_ex__")]:
        yield f"call_{module}.{name}", calls(name_of(module, name), COMMAND), REFUSED, f"'{module}.{name}'"
    yield "python2_builtin", calls(name_of("__builtin__", "eval"), COMMAND), REFUSED, "'builtins.eval'"
    yield "python2_copy_reg", calls(name_of("copy_reg", "__newobj__"), COMMAND), REFUSED, "'copyreg.__newobj__'"
    yield "stack_global", b"\x80\x04" + stack_name("os", "system") + COMMAND + b"R.", REFUSED, "'os.system'"
    yield "stack_global_from_memo", b"\x80\x04" + short("os") + b"\x94" + short("system") + b"\x940" + b"0h\x00h\x01\x93.", \
        REFUSED, "'os.system'"
    yield "inst", b"(S'echo pwned'\nios\nsystem\n.", REFUSED, "'os.system'"
    yield "obj", b"(" + name_of("os", "system") + text("echo pwned") + b"o.", REFUSED, "'os.system'"
    yield "newobj", b"\x80\x02" + name_of("subprocess", "Popen") + COMMAND + b"\x81.", REFUSED, "'subprocess.Popen'"
    yield "newobj_ex", b"\x80\x04" + stack_name("subprocess", "Popen") + COMMAND + b"}\x92.", REFUSED, "'subprocess.Popen'"
    yield "named_and_dropped", b"\x80\x02" + name_of("os", "system") + b"0N.", REFUSED, "'os.system'"
    yield "hidden_in_a_state_dict", b"\x80\x02" + ORDERED + b")R(" + text("weight") + calls(name_of("posix", "system"), COMMAND)[2:-1] \
        + b"u.", REFUSED, "'posix.system'"


def disguises():
    """Names that look like allowed ones."""
    for what, module, name, shown in [
            ("fullwidth", "\uff4fs", "system", "'\uff4fs.system'"),
            ("cyrillic_o", "t\u043erch", "FloatStorage", "'t\u043erch.FloatStorage'"),
            ("zero_width", "collections\u200b", "OrderedDict", "OrderedDict'"),
            ("right_to_left", "\u202emetsys.so", "x", "metsys.so.x'"),
            ("nul_byte", "collections\x00", "OrderedDict", "OrderedDict'"),
            ("terminal_escape", "\x1b[2Jos", "system", "\\x1b[2Jos.system'"),
            ("trailing_space", "collections ", "OrderedDict", "'collections .OrderedDict'"),
            ("upper_case", "Collections", "OrderedDict", "'Collections.OrderedDict'"),
            ("empty_name", "collections", "", "'collections.'"),
            ("empty_module", "", "system", "'.system'"),
            ("dotted", "torch", "serialization.os.system", "'torch.serialization.os.system'"),
            ("dotted_allowed", "torch", "nn.parameter.Parameter", "'torch.nn.parameter.Parameter'"),
            ("dunder", "collections", "OrderedDict.__init__.__globals__", "__globals__'"),
            ("enum_attribute", "megatron.core.enums", "ModelType.__class__", "__class__'"),
            ("enum_empty", "megatron.core.enums", "", "'megatron.core.enums.'"),
            ("signal_function", "signal", "raise_signal", "'signal.raise_signal'"),
            ("long", "o" * 5000, "system", "system'")]:
        encoded = module.encode()
        pushed = b"X" + u32(len(encoded)) + encoded + text(name)
        yield f"disguise_{what}", b"\x80\x04" + pushed + b"\x93)R.", REFUSED, shown
    yield "carriage_return", b"ccollections\r\nOrderedDict\r\n)R.", REFUSED, "'collections\\x0d.OrderedDict\\x0d'"
    yield "not_utf8_name", b"cos\xff\nsystem\n)R.", REFUSED, ".system'"


def indirect_calls():
    yield "call_of_a_result", b"\x80\x02" + ORDERED + b")R)R.", REFUSED, "calls an object"
    yield "call_of_a_string", b"\x80\x02" + text("os.system") + b")R.", REFUSED, "calls a string"
    yield "call_of_a_persistent_id", b"\x80\x02" + text("0") + b"Q)R.", REFUSED, "calls a persistent id"
    yield "obj_of_a_result", b"(" + ORDERED + b")R" + text("a") + b"o.", REFUSED, "calls an object"
    yield "reduce_chain", b"\x80\x02" + ORDERED + b")R" + b")R" * 1000 + b".", REFUSED, "calls an object"
    yield "reconstructor_of_a_result", b"ccopyreg\n_reconstructor\n(" + ORDERED + b")Rcbuiltins\nobject\nNtR.", REFUSED, \
        "calls an object"
    yield "reconstructor_of_popen", b"ccopy_reg\n_reconstructor\n(csubprocess\nPopen\nc__builtin__\nobject\nNtR.", REFUSED, \
        "'subprocess.Popen'"
    yield "arguments_are_a_list", b"\x80\x02" + ORDERED + b"]R.", INVALID, "arguments of a call are a list"
    yield "arguments_are_a_string", b"\x80\x02" + ORDERED + text("x") + b"R.", INVALID, "arguments of a call are a string"
    yield "keywords", b"\x80\x04" + ORDERED + b")}" + short("x") + b"Ns\x92.", REFUSED, "keyword arguments"
    yield "obj_without_class", b"(o.", INVALID, "OBJ without a class"


def builds():
    setstate = b"}" + text("__setstate__") + name_of("os", "system") + b"s"
    yield "build_setstate", b"\x80\x02" + ORDERED + b")R" + setstate + b"b" + text("echo pwned") + b"b.", REFUSED, "'os.system'"
    harmless = b"}" + text("__setstate__") + ORDERED + b"s"
    yield "build_setstate_then_call", b"\x80\x02" + ORDERED + b")R" + harmless + b"b" + text("x") + b"b.", REFUSED, "twice"
    yield "build_on_a_class", b"\x80\x02" + ORDERED + b"}b.", REFUSED, "state of a class or function"
    yield "build_on_a_dict", b"\x80\x02}}b.", REFUSED, "state of a dict"
    yield "build_on_a_list", b"\x80\x02]}b.", REFUSED, "state of a list"
    yield "build_on_a_persistent_id", b"\x80\x02NQ}b.", REFUSED, "state of a persistent id"
    yield "build_chain", b"\x80\x02" + ORDERED + b")R" + b"}b" * 5000 + b".", REFUSED, "twice"
    yield "build_on_nothing", b"\x80\x02}b.", INVALID, "empty stack"


def sizes():
    """Lengths and numbers that promise more than the file holds."""
    for what, opcode, width in [("binunicode", b"X", 4), ("binunicode8", b"\x8d", 8), ("short_binunicode", b"\x8c", 1),
                                ("binbytes", b"B", 4), ("binbytes8", b"\x8e", 8), ("short_binbytes", b"C", 1),
                                ("bytearray8", b"\x96", 8), ("binstring", b"T", 4), ("short_binstring", b"U", 1),
                                ("long1", b"\x8a", 1), ("long4", b"\x8b", 4), ("frame", b"\x95", 8)]:
        yield f"huge_{what}", b"\x80\x04" + opcode + b"\xff" * width + b"abc.", INVALID, "end before the value"
        if width > 1:
            yield f"half_{what}", b"\x80\x04" + opcode + b"\xff" * (width - 1) + b"\x7f" + b"abc.", INVALID, "end before the value"
            yield f"cut_length_{what}", b"\x80\x04" + opcode + b"\x01" * (width - 1), INVALID, "end before the value"
    yield "long4_2gb", b"\x80\x02\x8b" + u32(2**31 - 1) + b"\x01.", INVALID, "end before the value"
    yield "long_of_9_bytes", b"\x80\x02\x8a\x09" + b"\xff" * 8 + b"\x00.", REFUSED, "more than 64 bits"
    yield "long_of_4000_bytes", b"\x80\x02\x8b" + u32(4000) + b"\x7f" * 4000 + b".", REFUSED, "more than 64 bits"
    yield "long_text_of_a_million_digits", b"L" + b"9" * 10**6 + b"L\n.", REFUSED, "more than 64 bits"
    yield "int_text_of_20_digits", b"I" + b"9" * 20 + b"\n.", REFUSED, "more than 64 bits"
    yield "memo_binput_huge", b"\x80\x02Nr" + u32(2**32 - 1) + b".", REFUSED, "memo entry 4294967295"
    yield "memo_put_huge", b"Np99999999999\n.", REFUSED, "memo entry 99999999999"
    yield "memo_put_negative", b"Np-1\n.", REFUSED, "memo entry"
    yield "memo_put_not_a_number", b"Npx\n.", INVALID, "no decimal number"
    yield "memo_get_missing", b"\x80\x02h\x07.", INVALID, "memo entry 7 is read before"
    yield "memo_get_of_a_gap", b"\x80\x02Nq\x040h\x02.", INVALID, "memo entry 2 is read before"
    yield "memo_get_huge", b"\x80\x02j" + b"\xff" * 4 + b".", INVALID, "memo entry 4294967295"
    yield "memo_get_negative", b"g-1\n.", INVALID, "is read before"


def depths():
    yield "deep_marks", b"\x80\x02" + b"(" * 100000 + b"t" * 100000 + b".", REFUSED, "deeper than 1000"
    yield "deep_lists_by_mark", b"\x80\x02" + b"(" * 2000 + b"l" * 2000 + b".", REFUSED, "deeper than 1000"
    yield "only_marks", b"(" * 500, INVALID, "end before the value"


def stacks():
    for what, body in [("reduce", b"R"), ("build", b"b"), ("append", b"a"), ("append_one", b"Na"), ("appends", b"(e"),
                       ("setitem", b"s"), ("setitem_two", b"NNs"), ("setitems", b"(u"), ("additems", b"(\x90"),
                       ("tuple1", b"\x85"), ("tuple2", b"N\x86"), ("tuple3", b"NN\x87"), ("dup", b"2"), ("pop", b"0"),
                       ("put", b"q\x00"), ("memoize", b"\x94"), ("binpersid", b"Q"), ("newobj", b"N\x81"),
                       ("newobj_ex", b"N}\x92"), ("stack_global", short("os") + b"\x93")]:
        yield f"underflow_{what}", b"\x80\x04" + body + b".", INVALID, "empty stack"
        # The values below a MARK are not for the opcodes above it; only POP takes the MARK itself.
        if what != "pop":
            yield f"underflow_at_mark_{what}", b"\x80\x04]]](" + body + b"t.", INVALID, "empty stack"
    for what, body in [("tuple", b"t"), ("list", b"l"), ("dict", b"d"), ("appends", b"e"), ("setitems", b"u"),
                       ("additems", b"\x90"), ("frozenset", b"\x91"), ("pop_mark", b"1"), ("obj", b"o"),
                       ("inst", b"iargparse\nNamespace\n")]:
        yield f"no_mark_{what}", b"\x80\x04]N" + body + b".", INVALID, "there is none"
    yield "odd_dict", b"(Nd.", INVALID, "key without value"
    yield "odd_setitems", b"}(Nu.", INVALID, "key without value"
    yield "append_to_a_tuple", b")Na.", INVALID, "elements are put into a tuple"
    yield "append_to_a_dict", b"}Na.", INVALID, "elements are put into a dict"
    yield "append_to_none", b"NNa.", INVALID, "elements are put into None"
    yield "append_to_a_class", ORDERED + b"Na.", INVALID, "elements are put into a class"
    yield "setitem_in_a_list", b"]NNs.", INVALID, "entries are put into a list"
    yield "additems_in_a_list", b"](N\x90.", INVALID, "elements are put into a list"
    yield "elements_and_entries", ORDERED + b")R(NNuNa.", INVALID, "elements are put into an object"
    yield "stop_on_nothing", b"\x80\x02.", INVALID, "0 values on the stack"
    yield "stop_on_two", b"\x80\x02NN.", INVALID, "2 values on the stack"
    yield "stop_below_a_mark", b"\x80\x02N(.", INVALID, "STOP with"
    yield "stack_global_of_numbers", b"\x80\x04K\x01K\x02\x93.", INVALID, "needs two strings"
    yield "stack_global_of_bytes", b"\x80\x04C\x02osC\x06system\x93.", INVALID, "needs two strings"


def opcodes():
    for what, body in [("ext1", b"\x82\x01"), ("ext2", b"\x83\x01\x00"), ("ext4", b"\x84\x01\x00\x00\x00")]:
        yield what, b"\x80\x02" + body + b")R.", REFUSED, "EXT opcode"
    yield "next_buffer", b"\x80\x05\x97.", REFUSED, "buffer outside"
    yield "readonly_buffer", b"\x80\x05N\x98.", REFUSED, "buffer outside"
    yield "protocol_6", b"\x80\x06N.", INVALID, "protocol 6"
    yield "protocol_255", b"\x80\xffN.", INVALID, "protocol 255"
    yield "unknown_opcode", b"\x80\x02\xfe.", INVALID, "0xfe is no opcode"
    yield "text", b"hello world", INVALID, "memo entry 101"
    yield "empty", b"", INVALID, "0 bytes end"
    yield "no_stop", b"\x80\x02N", INVALID, "end before the value"
    yield "trailing", b"\x80\x02N.N", INVALID, "1 bytes behind STOP"
    yield "second_pickle_behind_the_first", b"\x80\x02N." + calls(name_of("os", "system"), COMMAND), INVALID, "behind STOP"
    yield "bad_utf8", b"\x80\x02X" + u32(2) + b"\xc3\x28.", INVALID, "valid UTF-8"
    yield "overlong_utf8", b"\x80\x02X" + u32(2) + b"\xc0\xaf.", INVALID, "valid UTF-8"
    yield "surrogate_utf8", b"\x80\x02X" + u32(3) + b"\xed\xa0\x80.", INVALID, "valid UTF-8"
    yield "surrogate_text", b"V\\ud800\n.", INVALID, "no character"
    yield "beyond_unicode", b"V\\U00110000\n.", INVALID, "no character"
    yield "cut_escape", b"V\\u12\n.", INVALID, "no character"
    yield "unquoted_string", b"Sabc\n.", INVALID, "without quotes"
    yield "half_quoted_string", b"S'abc\n.", INVALID, "without quotes"
    yield "string_ends_in_escape", b"S'abc\\'\n.", INVALID, "escape"
    yield "string_bad_hex", b"S'\\xg0'\n.", INVALID, "escape"
    yield "float_text", b"Fzero\n.", INVALID, "no float"
    yield "int_text", b"I12x\n.", INVALID, "no decimal number"
    yield "global_without_end", b"cos\nsystem", INVALID, "end before the value"


def truncated():
    whole = pickle.dumps({"model": [collections.OrderedDict(a=1.5), b"bytes", ("t", -5), {2**40}]}, 4)
    for size in range(len(whole)):
        yield f"truncated_{size:03}", whole[:size], INVALID, "end before the value"


def all_bad():
    for group in (names, disguises, indirect_calls, builds, sizes, depths, stacks, opcodes, truncated):
        yield from group()


# Hostile by their shape, yet valid: they have to be read in time and memory that fit their size.
def bombs():
    lists = b"\x80\x02" + b"]q\x00"
    for level in range(1, 200):  # each list holds ten times the one below: 10^200 elements in Python's repr
        lists += b"](" + b"h" + bytes([level - 1]) + (b"h" + bytes([level - 1])) * 9 + b"eq" + bytes([level])
    yield "billion_laughs", lists + b"\x86" * 199 + b"."
    yield "dup_tuples", b"N" + b"2\x86" * 100000 + b"."
    yield "deep_tuples", b")" + b"\x85" * 200000 + b"."
    yield "deep_lists", b"]" * 100000 + b"a" * 99999 + b"."
    yield "list_in_itself", b"]q\x00h\x00a."
    yield "dict_in_itself", b"}q\x00h\x00h\x00s."
    yield "object_whose_state_is_itself", ORDERED + b")Rq\x00h\x00b."
    yield "memo_rewritten", b"N" + b"q\x00" * 100000 + b"."
    yield "many_empty_lists", b"(" + b"]" * 100000 + b"l."
    yield "persistent_id_of_a_persistent_id", b"N" + b"Q" * 100000 + b"."
    yield "one_name_a_thousand_times", b"(" + ORDERED * 1000 + b"l."


def main(out):
    for folder in ("good", "bad", "bombs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_good(out)
    expected = {}
    for name, content, identifier, words in all_bad():
        assert name not in expected, name
        (out / "bad" / f"{name}.pkl").write_bytes(content)
        expected[name] = {"id": identifier, "text": words}
    (out / "bad.json").write_text(json.dumps(expected))
    for name, content in bombs():
        (out / "bombs" / f"{name}.pkl").write_bytes(content)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
