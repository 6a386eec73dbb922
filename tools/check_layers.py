#!/usr/bin/env python3
"""Fails when an #include breaks the layers of the project (ARCHITECTURE.md, "Rooms").

usage: check_layers.py [PROJECT_FOLDER]

Rules, for every source and header under src/ and python/src/:
  * a room includes only the rooms that ALLOWED names for it;
  * report sees of checks nothing but checks/result.h;
  * mapping and family do no file I/O (IO_HEADERS), except the files of IO_ALLOWED;
  * only engine includes libtorch;
  * a header of the project is included by its full name, "room/header.h", and exists;
  * no header includes itself, directly or through others.
"""
import argparse
import pathlib
import re
import sys

# room -> the rooms it may include, besides itself. `api` is include/weighbridge, the public headers.
ALLOWED = {
    "base": set(),
    "tensor": {"base"},
    "formats": {"base", "tensor"},
    "mapping": {"base", "tensor"},
    "family": {"base", "tensor", "mapping"},
    "checks": {"base", "tensor", "formats", "mapping", "family", "api"},
    "engine": {"base", "tensor", "formats", "mapping", "family", "checks"},
    "report": {"base", "tensor", "checks"},
    "api": {"base", "tensor", "formats", "mapping", "family", "checks"},
    "cli": {"base", "tensor", "formats", "mapping", "family", "checks", "engine", "report", "api"},
    "python": {"base", "tensor", "formats", "mapping", "family", "checks", "engine", "report", "api", "cli"},
}
# (room, included room) -> the only headers of it that may be seen.
NARROW = {("report", "checks"): {"checks/result.h"}}

NO_IO_ROOMS = {"mapping", "family"}
IO_HEADERS = {"base/file.h", "base/atomic_output.h", "fstream", "filesystem", "cstdio", "stdio.h", "fcntl.h",
              "unistd.h", "sys/mman.h", "sys/stat.h"}
# file -> the I/O headers it may include all the same.
IO_ALLOWED: dict[str, set[str]] = {}

TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def project_files(root):
    """{name as it is included: path} of every file of src/, include/ and python/src/; x.h.in is what x.h is made from."""
    files = {}
    for base, folder in ((root / "src", ""), (root / "include", ""), (root, "python/src")):
        for path in sorted((base / folder).rglob("*")):
            if path.name.endswith((".h", ".cc", ".h.in")):
                files[path.relative_to(base).as_posix().removesuffix(".in")] = path
    return files


def room_of(name):
    room = name.split("/")[0]
    return "api" if room == "weighbridge" else room


def check_include(where, room, name, quoted, files):
    """The rules that one #include of the file `where` breaks, as sentences."""
    if TORCH.match(name) and room != "engine":
        yield "only engine may see libtorch"
    if room in NO_IO_ROOMS and name in IO_HEADERS - IO_ALLOWED.get(where, set()):
        yield f"{room} does no file I/O"
    if name not in files:
        if quoted and (name.split("/")[0] in ALLOWED or (files[where].parent / name).exists()):
            yield 'a header of the project is included as "room/header.h" and has to exist'
        return
    target = room_of(name)
    if target == room:
        return
    if target not in ALLOWED[room]:
        yield f"{room} may include only {', '.join(sorted(ALLOWED[room])) or 'itself'}"
    elif name not in NARROW.get((room, target), {name}):
        yield f"{room} sees of {target} only {', '.join(sorted(NARROW[room, target]))}"


def find_cycle(graph):
    """One cycle of headers as a list that starts and ends with the same name, or None."""
    done = set()

    def walk(name, path):
        if name in path:
            return path[path.index(name):] + [name]
        if name in done:
            return None
        for other in graph.get(name, ()):
            if cycle := walk(other, path + [name]):
                return cycle
        done.add(name)
        return None

    return next((cycle for name in sorted(graph) if (cycle := walk(name, []))), None)


def check(root):
    """Every broken rule under `root`, as lines 'FILE:LINE: includes NAME: RULE'."""
    files = project_files(root)
    problems, graph = [], {}
    for where, path in files.items():
        room = room_of(where)
        at = path.relative_to(root).as_posix()
        if room not in ALLOWED:
            problems.append(f"{at}: is in no known room ({', '.join(sorted(ALLOWED))})")
            continue
        text = path.read_text(encoding="utf-8")
        for match in INCLUDE.finditer(text):
            name = match[2]
            if name in files:
                graph.setdefault(where, []).append(name)
            line = text.count("\n", 0, match.start(2)) + 1
            problems += [f"{at}:{line}: includes {name}: {rule}"
                         for rule in check_include(where, room, name, match[1] == '"', files)]
    if cycle := find_cycle(graph):
        problems.append("headers include each other: " + " -> ".join(cycle))
    return problems, len(files)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", default=pathlib.Path(__file__).resolve().parents[1], type=pathlib.Path)
    problems, checked = check(parser.parse_args().root.resolve())
    if not checked:
        sys.exit("error: no source file found under src/, nothing was checked")
    for problem in problems:
        print(problem)
    print(f"layers: {checked} files, {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
