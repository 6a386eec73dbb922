#!/usr/bin/env python3
"""Writes what weighbridge.inspect_bridge says of Megatron Bridge's own bridges: tests/testdata/bridges.

usage: make_bridge_dumps.py OUT [NAME ...]

NAME is a model of tests/testdata/hf, default all of them. Runs in the environment of the oracle kit, with the package
(tools/test_oracle.sh installs it).
"""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/oracle"))


def main():
    import bridges
    bridges.need_bridge()
    import weighbridge
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or sorted(path.name for path in bridges.HF.iterdir() if (path / "config.json").exists()):
        try:
            dump = weighbridge.inspect_bridge(bridges.auto_bridge(bridges.HF / name))
        except Exception as error:  # a model that the Bridge does not have
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            continue
        document = dump.document
        document.pop("version")
        # Paths of this machine.
        for key in [k for k, v in (document["provider"] or {}).items() if isinstance(v, str) and v.startswith("/")]:
            document["provider"][key] = name
        (out / f"{name}.json").write_text(json.dumps(document, indent=0) + "\n")
        report = dump.lint()
        print(name, dump, report.verdict, [c.id for c in report.causes])


if __name__ == "__main__":
    main()
