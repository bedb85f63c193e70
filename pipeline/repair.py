"""Repairing a store: what is damaged is computed again, and nothing else.

    report = repair(load_config("my.yaml"), Path("stores/mine"))

Documents are written again where they follow from others, then each damaged shard; records that
are right are kept byte for byte. The features to compute are those that the store has, whatever
timesteps and layers the configuration asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache import (
    ArraySpec,
    Origin,
    ShardTask,
    StoreError,
    StoreMender,
    VerifyReport,
    restore_documents,
    stored_features,
    verify_store,
)
from cache.units import printable
from configs import Config
from pipeline.compute import Listener, compute_tasks
from pipeline.extraction.arrays import LATENT
from pipeline.extraction.extract import BaseExtractor, Computed, Computing
from pipeline.inputs.loader import auto_workers
from pipeline.job import Job, load_job
from pipeline.networks.unet import LAYER_SITE

_MAP = re.compile(r"sd/t(\d+)/(\w+)")
_PREFIX = re.compile(r"prefix/t(\d+)/(down|up)(\d)/draw\d+/\w+")
N_SHOWN = 20
"""Lines of a report that name files, shards or images."""


@dataclass(frozen=True)
class RepairReport:
    """What a repair did or, with ``dry_run``, would do."""

    store: Path
    dry_run: bool
    documents: list[str] = field(default_factory=list)
    """Documents written again."""
    shards: dict[int, list[str]] = field(default_factory=dict)
    """Damaged shards and, of each, the arrays whose files are written again."""
    records: int = 0
    """Records computed; the others of these files were kept."""
    other_bytes: int = 0
    """Of these, records that differ from those committed, by rounding: computed on another kind
    of machine, by other versions, or beside other images."""
    failures: dict[str, str] = field(default_factory=dict)
    """Image id to the reason why its features cannot be computed again."""
    left: list[str] = field(default_factory=list)
    """What is still damaged, one line each."""

    @property
    def sound(self) -> bool:
        """Whether the store is sound now."""
        return not self.left

    def as_json(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        return {**vars(self), "store": str(self.store), "sound": self.sound}

    def as_text(self) -> str:
        """What was done, for a terminal."""
        would = "would be " if self.dry_run else ""
        lines = [f"document {would}written again: {name}" for name in self.documents[:N_SHOWN]]
        for shard, arrays in list(self.shards.items())[:N_SHOWN]:
            files = ", ".join(arrays) or "its commit"
            lines.append(f"shard {shard} {would}repaired: {files}")
        lines += [
            printable(f"cannot be computed: {image}: {why}")
            for image, why in list(self.failures.items())[:N_SHOWN]
        ]
        lines += [printable(line) for line in self.left[:N_SHOWN]] if not self.dry_run else []
        if self.other_bytes:
            lines.append(
                f"{self.other_bytes:,} records differ from the former ones by rounding: another "
                "machine, other versions, or other images beside them"
            )
        done = (
            f"documents: {len(self.documents):,}, shards: {len(self.shards):,}, "
            f"records computed: {self.records:,}"
        )
        if self.dry_run:
            verdict = "nothing to repair" if self.sound else f"to do: {done}"
        else:
            verdict = f"sound; {done}" if self.sound else f"still damaged; {done}"
        return "\n".join([*lines, f"{self.store}: {verdict}"])


def repair(
    config: Config,
    path: Path,
    dry_run: bool = False,
    listener: Listener | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> RepairReport:
    """Verify a store and repair what is damaged. Stopped at any point, it may be run again.

    Args:
        config: backbone, dataset and extraction with which the store was made.
        dry_run: say what would be done, and change nothing.
        listener: told about progress.
        log: told about each step in one line.

    Raises StoreError where the configuration is another store's or a document follows from nothing
    else, and the errors of `precompute`; nothing that is sound is touched.
    """
    log(f"verifying {path}")
    found = verify_store(path)
    if found.sound:
        if not dry_run and any(note.kind == "temporary" for note in found.notes):
            StoreMender.open(path, ()).tidy()
        return RepairReport(path, dry_run)
    log(f"loading backbone {config.backbone.label}")
    job = _job_for(config, stored_features(path))
    specs = {spec.name: spec for spec in job.specs}
    documents = restore_documents(path, Origin(job.recipe, job.provenance(), specs), dry_run)
    if documents:
        if dry_run:
            return RepairReport(path, dry_run, documents, left=_lines(found))
        log(f"documents written again: {len(documents):,}; verifying again")
        found = verify_store(path)
    mender = StoreMender.open(path, found.problems)
    tasks, shards = mender.tasks(), mender.damaged
    _check(mender, specs, tasks)
    if dry_run:
        return RepairReport(path, dry_run, [], shards, mender.n_missing, left=_lines(found))
    log(f"damaged shards: {len(shards):,}, records to compute: {mender.n_missing:,}")
    mender.mend_without_computing()
    workers = config.extraction.workers
    compute_tasks(
        job,
        mender,
        tasks,
        auto_workers(job.extractor.device) if workers == "auto" else workers,
        listener,
        # Their files may be damaged where no value is lost, and are read before they are repaired.
        use_latents=not any(LATENT in arrays for arrays in shards.values()),
    )
    mender.tidy()
    done = mender.report
    return RepairReport(
        path,
        dry_run,
        documents,
        shards,
        done.records,
        done.other_bytes,
        done.failures,
        _lines(verify_store(path)),
    )


class _SeveralSites(BaseExtractor):
    """Extractors that differ in the prefix's site alone, as one."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        first = jobs[0].extractor
        super().__init__(first.device, first.batch_size)
        self._jobs = jobs

    def start(
        self, squares: np.ndarray, sha256s: Sequence[str], arrays: Sequence[str]
    ) -> Computing:
        found: dict[str, np.ndarray] = {}
        for job in self._jobs:
            its = {spec.name for spec in job.specs}
            mine = [name for name in arrays if name in its and name not in found]
            if mine:
                found |= job.extractor(squares, sha256s, mine)
        return Computed(found)


def _job_for(config: Config, features: Collection[str]) -> Job:
    """What computes these features: the configuration with their timesteps, layers and sites."""
    maps = [match for name in features if (match := _MAP.fullmatch(name))]
    prefixes = [match for name in features if (match := _PREFIX.fullmatch(name))]
    timesteps = sorted({int(match[1]) for match in (*maps, *prefixes)})
    layers = sorted({match[2] for match in maps} & set(LAYER_SITE))
    sites = sorted({f"{match[2]}.{match[3]}" for match in prefixes})
    changes: dict[str, Any] = {"prefix": None}
    if timesteps:
        changes["timesteps"] = tuple(timesteps)
    if layers:
        changes["layers"] = tuple(layers)
    asked = [changes | {"prefix": site} for site in sites] or [changes]
    jobs = [
        load_job(config.model_copy(update={"extraction": config.extraction.model_copy(update=one)}))
        for one in asked
    ]
    if len(jobs) == 1:
        return jobs[0]
    specs = {spec.name: spec for job in jobs for spec in job.specs}
    return replace(jobs[0], extractor=_SeveralSites(jobs), specs=list(specs.values()))


def _check(mender: StoreMender, specs: Mapping[str, ArraySpec], tasks: Sequence[ShardTask]) -> None:
    """Raise StoreError unless the configuration gives every feature that is damaged."""
    for name in sorted({name for task in tasks for name in task.arrays}):
        if specs.get(name) != mender.arrays[name]:
            raise StoreError(
                f"{mender.path}: damaged in {name}, which this configuration does not compute as "
                "the store holds it; give the configuration that made it"
            )


def _lines(found: VerifyReport) -> list[str]:
    return [f"{problem.kind}: {problem.where}: {problem.what}" for problem in found.problems]
