"""The whole examination: stage 1's checks, and whether the task's protocol fits the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs import Config
from pipeline.doctor import CHECKS, Asked, Finding, examine

if TYPE_CHECKING:
    from cache import StorePath


@dataclass(frozen=True)
class Diagnosis:
    """What was found, on a machine and for a configuration."""

    config: str | None
    """Its name; None where only the machine was examined."""
    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Whether nothing that is needed is missing."""
        return all(finding.level != "problem" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """One plain object."""
        findings = [asdict(finding) for finding in self.findings]
        return {"config": self.config, "ready": self.ready, "findings": findings}

    def as_text(self) -> str:
        """One line for each finding, and below it what to do."""
        width = max(len(finding.check) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.level:<7}  {finding.check:<{width}}  {finding.what}")
            if finding.advice:
                lines.append(f"{'':<{width + 11}}do: {finding.advice}")
        levels = [finding.level for finding in self.findings]
        lines.append(f"problems: {levels.count('problem')}, notes: {levels.count('note')}")
        return "\n".join(lines)


def diagnose(config: Config | None, out: StorePath | None = None) -> Diagnosis:
    """Examine this machine, and what a configuration needs of it.

    Args:
        out: where the store goes, if it is known; else below stores/.

    Downloads nothing, and waits for no server longer than `pipeline.doctor.HUB_SECONDS`.
    """
    asked = Asked(config, out or Path("stores"))
    findings = examine(asked, (*CHECKS, check_protocol))
    return Diagnosis(None if config is None else config.name, tuple(findings))


def check_protocol(asked: Asked) -> Iterator[Finding]:
    """Whether the dataset has what the task trains and tests on."""
    config = asked.config
    if config is None or config.task is None:
        return
    from cache.units import printable
    from heads.protocols import ProtocolError
    from heads.training.experiment import apply_protocol
    from pipeline.datasets.base import DatasetError

    try:
        # Sizes only scale the points of pairs: which images are used does not depend on them.
        sizes = dict.fromkeys(asked.dataset.ids, (1, 1))
        protocol, parts = apply_protocol(config, asked.dataset, sizes)
    except DatasetError:
        return  # The dataset's own check says why.
    except ProtocolError as error:
        yield Finding.of_error("protocol", error)
        return
    name = f"{config.task} by {protocol.name}"
    counts = (
        f"{name}: {len(parts.train):,} to train on, {len(parts.val):,} to validate, "
        f"{len(parts.test):,} to test"
    )
    if not len(parts.train):
        yield Finding(
            "protocol",
            "problem",
            printable(f"{counts}; {'; '.join(parts.notes)}"),
            "add what is missing, or choose another protocol by train.protocol",
        )
        return
    yield Finding("protocol", "ok", counts)
    for note in parts.notes:
        yield Finding("protocol", "note", printable(f"{protocol.name}: {note}"))
    if not parts.complete:
        yield Finding(
            "protocol",
            "note",
            f"{protocol.name} is not complete here: published numbers cannot stand beside",
            "add what is missing; folders may be spelt otherwise than the lists",
        )
