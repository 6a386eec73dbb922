"""What the package raises."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Report


class Error(Exception):
    """No judgement was reached: wrong options, a file that is not there or cannot be read, an unknown family.

    `kind` is one of usage, not-found, permission, io, corrupt, unsupported, invalid, internal; `id` a short stable word;
    `at` a file, file:offset or tensor; `hint` what can be done. `report` is there when a check ended without a verdict.
    """

    def __init__(self, kind: str, id: str, what: str, at: str = "", hint: str = "", report: Report | None = None) -> None:
        super().__init__(kind, id, what, at, hint)
        self.kind, self.id, self.what, self.at, self.hint, self.report = kind, id, what, at, hint, report

    def __str__(self) -> str:
        lines = [self.what]
        if self.at:
            lines.append(f"  at: {self.at}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class ParityError(Exception):
    """A judgement that was asked to hold does not: raised by `raise_if_failed()` alone."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.report: Report | None = None
