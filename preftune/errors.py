"""The one error a user sees: what went wrong, where, and how to mend it."""

from __future__ import annotations


class PreftuneError(Exception):
    """A mistake the user can mend; the command line prints it in red and exits with 2.

    ``what`` is one sentence; ``where`` names file, row or field; ``mend`` is the sentence that helps.
    """

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f" {self.mend}" if self.mend else ""
        return f"{place}{self.what}{cure}"


class StorageFullError(PreftuneError):
    """The disk refused a write; what was written before is intact."""
