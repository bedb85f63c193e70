"""What a verification finds."""

from __future__ import annotations

from dataclasses import dataclass, field

from cache.errors import VERIFY_HINT, StoreError
from cache.storage.remote import StorePath


@dataclass(frozen=True)
class Problem:
    """One finding. docs/store-format.md lists the kinds."""

    kind: str
    where: str
    """Path inside the store."""
    what: str


@dataclass
class Findings:
    """Findings of one part of a verification."""

    problems: list[Problem] = field(default_factory=list)
    """Damage."""
    notes: list[Problem] = field(default_factory=list)
    """Unfinished or interrupted work."""
    bytes_checked: int = 0
    """Bytes of records compared with their checksums."""

    def problem(self, kind: str, where: str, what: str) -> None:
        """Report damage."""
        self.problems.append(Problem(kind, where, what))

    def failure(self, kind: str, store: StorePath, where: str, error: StoreError) -> None:
        """Report damage that reading ran into, without repeating the path or the advice."""
        what = str(error).removeprefix(f"{store / where}: ").removeprefix(f"{where}: ")
        self.problem(kind, where, what.removesuffix(f"; {VERIFY_HINT}"))

    def note(self, kind: str, where: str, what: str) -> None:
        """Report something unfinished."""
        self.notes.append(Problem(kind, where, what))

    def add(self, other: Findings) -> None:
        """Take over the findings of another part."""
        self.problems += other.problems
        self.notes += other.notes
        self.bytes_checked += other.bytes_checked
