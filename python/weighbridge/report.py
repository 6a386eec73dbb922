"""The report of a check: the document of docs/report.schema.json, typed."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ._errors import ParityError

SHOWN_CAUSES = 20


@dataclass(frozen=True)
class Cause:
    """One mistake that explains what differs. `id` is one of docs/causes.md."""

    id: str
    proof: str
    origin: str
    where: tuple[str, ...]
    message: str
    evidence: str
    hint: str


@dataclass(frozen=True)
class Note:
    id: str
    message: str


@dataclass(frozen=True)
class TensorRef:
    name: str
    shape: tuple[int, ...]
    dtype: str | None


@dataclass(frozen=True)
class Rank:
    tp: int
    pp: int
    vpp: int
    ep: int
    etp: int


@dataclass(frozen=True)
class Result:
    """One tensor. `document` has what stands in the report besides: metrics, the first element that differs."""

    hf: tuple[TensorRef, ...]
    megatron: TensorRef | None
    rank: Rank | None
    status: str
    transform: str
    xxh3: str | None
    why: str
    document: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        return self.status in ("match", "match-widened", "match-rounded", "skipped")


@dataclass(frozen=True)
class Counts:
    total: int
    passed: int
    failed: int
    skipped: int


def _tensor(row: Mapping[str, Any]) -> TensorRef:
    return TensorRef(row["name"], tuple(row.get("shape") or ()), row.get("dtype"))


def _result(row: Mapping[str, Any]) -> Result:
    rank, megatron = row.get("rank"), row.get("megatron")
    return Result(
        hf=tuple(_tensor(t) for t in row.get("hf") or ()),
        megatron=_tensor(megatron) if megatron and megatron.get("name") else None,
        rank=Rank(**rank) if rank else None, status=row["status"], transform=row.get("transform", ""),
        xxh3=row.get("xxh3"), why=row.get("why") or "", document=row)


class Report:
    """What a check found. Nothing of it is computed here: `document` is the program's own report."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    @property
    def command(self) -> str:
        return str(self.document["command"])

    @property
    def verdict(self) -> str:
        """pass, fail or undecided."""
        return str(self.document["verdict"])

    @property
    def ok(self) -> bool:
        return self.verdict == "pass"

    @cached_property
    def counts(self) -> Counts:
        return Counts(**self.document["counts"])

    @cached_property
    def causes(self) -> tuple[Cause, ...]:
        """Empty unless the verdict is 'fail'."""
        return tuple(Cause(c["id"], c["proof"], c["origin"], tuple(c["where"]), c["message"], c.get("evidence") or "",
                           c.get("hint") or "") for c in self.document["causes"])

    @cached_property
    def notes(self) -> tuple[Note, ...]:
        return tuple(Note(n["id"], n["message"]) for n in self.document["notes"])

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """One per tensor, those that hold included."""
        return tuple(_result(row) for row in self.document["results"])

    @property
    def unproven(self) -> tuple[str, ...]:
        """What this check does not prove."""
        return tuple(self.document["unproven"])

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.document, indent=indent, ensure_ascii=False)

    def raise_if_failed(self) -> Report:
        """This report, or ParityError with the causes when the verdict is not 'pass'."""
        if self.ok:
            return self
        error = ParityError(str(self))
        error.report = self
        raise error

    def __str__(self) -> str:
        c = self.counts
        lines = [f"{self.command}: {self.verdict} ({c.passed} of {c.total} passed, {c.failed} failed, {c.skipped} skipped)"]
        for cause in self.causes[:SHOWN_CAUSES]:
            lines.append(f"cause: {cause.id}: {cause.message}")
            if cause.where:
                more = f" and {len(cause.where) - 3} more" if len(cause.where) > 3 else ""
                lines.append(f"  where: {', '.join(cause.where[:3])}{more}")
            if cause.hint:
                lines.append(f"  hint: {cause.hint}")
        if len(self.causes) > SHOWN_CAUSES:
            lines.append(f"and {len(self.causes) - SHOWN_CAUSES} more causes")
        lines += [f"not proven: {text}" for text in self.unproven]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Report {self.command}: {self.verdict}, {len(self.causes)} causes, {self.counts.total} results>"
