#!/usr/bin/env python3
"""Fails when a tracked file names a place that only its author has, or leaves work undone.

usage: check_names.py [PROJECT_FOLDER]

Refused: absolute paths of a developer's machine, hosts of package registries (the ordinary clients know
them), and marks of unfinished work.
"""
import argparse
import pathlib
import re
import subprocess
import sys

# Spelled in pieces, so that this file passes its own check.
RULES = {
    "a path of one machine": re.compile(r"(?<![\w.~}])/(?:" + "work|ro" + "ot|ho" + r"me|Users)/(?=\w)"),
    "the host of a registry": re.compile(
        r"\b(?:" + "|".join(re.escape(host) for host in (
            "pypi" + ".org", "python" + "hosted.org", "deb." + "debian.org", "download." + "pytorch.org",
            "ana" + "conda.org", "conda." + "ana" + "conda.org", "ghcr" + ".io", "docker" + ".io")) + r")\b"),
    "unfinished work": re.compile(r"\b(?:" + "TO" + "DO|FIX" + "ME|XX" + r"X)\b"),
}


def tracked_files(root):
    """Tracked files and those that would be tracked by the next commit."""
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (root / name).is_file()]


def check(root):
    problems = []
    names = tracked_files(root)
    for name in names:
        data = (root / name).read_bytes()
        if b"\0" in data:  # not text
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            problems += [f"{name}:{number}: {what}: {match[0]}"
                         for what, rule in RULES.items() if (match := rule.search(line))]
    return problems, len(names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", default=pathlib.Path(__file__).resolve().parents[1], type=pathlib.Path)
    problems, checked = check(parser.parse_args().root.resolve())
    if not checked:
        sys.exit("error: git lists no file, nothing was checked")
    for problem in problems:
        print(problem)
    print(f"names: {checked} files, {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
