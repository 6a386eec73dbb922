"""The program's commands as functions. Options have the names that they have on the command line, with `_` for `-`."""
from __future__ import annotations

import json as json_module
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from . import _core
from ._errors import Error
from .report import Report

Path: TypeAlias = "str | os.PathLike[str]"
Option: TypeAlias = "None | bool | int | float | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"


def paths_of(paths: Path | Iterable[Path]) -> list[Path]:
    """One path or several."""
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


def _words(options: Mapping[str, Option]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif isinstance(value, (list, tuple)):
            for item in value:
                words += [option, os.fspath(item)]
        elif isinstance(value, (int, float)):
            words += [option, str(value)]
        else:
            words += [option, os.fspath(value)]  # type: ignore[arg-type]
    return words


def _call(command: Sequence[str], inputs: Sequence[Path], options: Mapping[str, Option]) -> tuple[Report | None, str]:
    """Runs a command line. Raises Error where it ends without a judgement."""
    status, document, errors, text = _core.run([*command, *_words(options), *(["--", *(os.fspath(path) for path in inputs)] if inputs else [])])
    report = Report(json_module.loads(document)) if document is not None else None
    if status == 2 or (errors and report is None):
        if report is not None and report.document.get("error") and not errors:
            said = report.document["error"]
            raise Error("", said["id"], said["what"], said.get("at") or "", said.get("hint") or "", report)
        fields = errors[0] if errors else ("internal", "internal", "the command failed and did not say why", "", "")
        raise Error(*fields, report=report)
    return report, text


# A call does all of its work by itself: variables of torchrun in the environment are its caller's affair (launcher="none").
def _judge(command: str, inputs: Sequence[Path], **options: Option) -> Report:
    report, _ = _call(command.split(), inputs, {"quiet": True, **options})
    assert report is not None
    return report


def roundtrip(
    model: Path, *, tp: int = 1, pp: int = 1, vpp: int = 1, ep: int = 1, etp: int = 1,
    first_stage_layers: int | None = None, last_stage_layers: int | None = None, pp_layout: str | None = None,
    account_for_embedding_in_pipeline_split: bool = False, account_for_loss_in_pipeline_split: bool = False,
    level: str = "L1", ranks: bool = False, dialect: str = "te", without_mtp: bool = False, pad_vocab: int | None = None,
    config: Path | None = None, family: Path | Sequence[Path] = (), memory: str | None = None, threads: int | None = None,
    json: Path | None = None, html: Path | None = None, junit: Path | None = None, card: Path | None = None,
) -> Report:
    """Hugging Face -> Megatron -> Hugging Face on any parallel grid, byte for byte, without writing anything."""
    return _judge(
        "roundtrip", [model], tp=tp, pp=pp, vpp=vpp, ep=ep, etp=etp, first_stage_layers=first_stage_layers,
        last_stage_layers=last_stage_layers, pp_layout=pp_layout,
        account_for_embedding_in_pipeline_split=account_for_embedding_in_pipeline_split,
        account_for_loss_in_pipeline_split=account_for_loss_in_pipeline_split, level=level, ranks=ranks, dialect=dialect,
        without_mtp=without_mtp, pad_vocab=pad_vocab, config=config, family=family, memory=memory, threads=threads,
        json=json, html=html, junit=junit, card=card)


def verify(
    hf: Path, megatron: Path, *, level: str | None = None, runtime: str | None = None, without_mtp: bool = False,
    expect_dtype: str | None = None, strict_padding: bool = False, ranks: bool = False, dialect: str = "te", tp: int = 1,
    pp: int = 1, vpp: int = 1, ep: int = 1, etp: int = 1, first_stage_layers: int | None = None,
    last_stage_layers: int | None = None, pp_layout: str | None = None,
    account_for_embedding_in_pipeline_split: bool = False, account_for_loss_in_pipeline_split: bool = False,
    pad_vocab: int | None = None, like: Path | None = None, config: Path | None = None, family: Path | Sequence[Path] = (),
    memory: str | None = None, threads: int | None = None, json: Path | None = None, html: Path | None = None,
    junit: Path | None = None, card: Path | None = None,
) -> Report:
    """A Hugging Face and a Megatron checkpoint, or a checkpoint and a manifest: is every byte where it belongs."""
    return _judge(
        "verify", [hf, megatron], launcher="none", level=level, runtime=runtime, without_mtp=without_mtp, expect_dtype=expect_dtype,
        strict_padding=strict_padding, ranks=ranks, dialect=dialect, tp=tp, pp=pp, vpp=vpp, ep=ep, etp=etp,
        first_stage_layers=first_stage_layers, last_stage_layers=last_stage_layers, pp_layout=pp_layout,
        account_for_embedding_in_pipeline_split=account_for_embedding_in_pipeline_split,
        account_for_loss_in_pipeline_split=account_for_loss_in_pipeline_split, pad_vocab=pad_vocab, like=like,
        config=config, family=family, memory=memory, threads=threads, json=json, html=html, junit=junit, card=card)


def diff(
    a: Path, b: Path, *, atol: float = 0.0, rtol: float = 0.0, allow_skip: str | Sequence[str] = (), threads: int | None = None,
    json: Path | None = None, html: Path | None = None, junit: Path | None = None, card: Path | None = None,
) -> Report:
    """Two state dicts of any format, key by key; `a` is the expected side."""
    return _judge("diff", [a, b], atol=atol, rtol=rtol, allow_skip=allow_skip, threads=threads, json=json, html=html,
                  junit=junit, card=card)


def diagnose(
    hf: Path, megatron: Path, *, runtime: str | None = None, without_mtp: bool = False, expect_dtype: str | None = None,
    strict_padding: bool = False, config: Path | None = None, family: Path | Sequence[Path] = (), memory: str | None = None,
    threads: int | None = None, json: Path | None = None, html: Path | None = None, junit: Path | None = None,
    card: Path | None = None,
) -> Report:
    """The debugging workflow: which single mistake explains why two checkpoints differ."""
    return _judge("diagnose", [hf, megatron], runtime=runtime, without_mtp=without_mtp, expect_dtype=expect_dtype,
                  strict_padding=strict_padding, config=config, family=family, memory=memory, threads=threads, json=json,
                  html=html, junit=junit, card=card)


class Manifest:
    """Hashes of canonical tensors (docs/manifest.schema.json); equal models have equal manifests."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    @property
    def family(self) -> str:
        return str(self.document["family"])

    @property
    def tensors(self) -> list[dict[str, Any]]:
        tensors: list[dict[str, Any]] = self.document["tensors"]
        return tensors

    def to_json(self, indent: int | None = None) -> str:
        return json_module.dumps(self.document, indent=indent, ensure_ascii=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.document == other.document

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Manifest of {len(self.tensors)} tensors, family {self.family}>"


def manifest(
    ckpt: Path, *, output: Path | None = None, like: Path | None = None, config: Path | None = None,
    family: Path | Sequence[Path] = (), without_mtp: bool = False, threads: int | None = None,
) -> Manifest:
    """The hash of every tensor, equal for a model on either side of a conversion; written to `output` if it is given."""
    _, text = _call(["manifest"], [ckpt], {
        "quiet": True, "launcher": "none", "output": output, "like": like, "config": config, "family": family, "without_mtp": without_mtp,
        "threads": threads})
    if output is not None:
        with open(output, encoding="utf-8") as f:
            text = f.read()
    return Manifest(json_module.loads(text))
