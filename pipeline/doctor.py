"""What works on this machine, and what to do about the rest: one small check after another.

A check yields findings. It imports what it needs itself, so that a package that is missing or
broken is a finding too, and none of them downloads anything.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import threading
import tomllib
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs import BackboneConfig, ClipConfig, Config, load_config, preset_names
from configs.base import RANDOM
from pipeline.machine import machine_memory

if TYPE_CHECKING:
    from cache import StorePath
    from pipeline.datasets.base import Dataset

Level = Literal["ok", "note", "problem"]

HUB_SECONDS = 3.0
"""How long the hub may take to answer."""
MEMORY_WANTED = 8 * 2**30
"""Bytes; the paper's networks, text encoder included, have 1.7 billion weights in float32."""
FILES_WANTED = 2048
"""Open files; a store's reader keeps a quarter of what is allowed."""
OPTIONAL = {
    "tensorboard": "a run writes no TensorBoard files",
    "tensorstore": "only a second way to read stores, which nothing here needs",
}
"""Packages one can do without, and what is then missing."""

_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@dataclass(frozen=True)
class Finding:
    """What one check found. A `problem` is something that is needed and missing."""

    check: str
    level: Level
    what: str
    advice: str = ""
    """What to do about it; empty where nothing is to be done."""

    @classmethod
    def of_error(cls, check: str, error: Exception, level: Level = "problem") -> Finding:
        """A finding from an error of this project, whose messages end in what to do."""
        from cache.units import printable

        what, _, advice = printable(_one_line(error)).partition("; ")
        return cls(check, level, what, advice)


@dataclass(frozen=True)
class Asked:
    """What the checks are about: a configuration, or only the machine."""

    config: Config | None = None
    out: StorePath = Path("stores")
    """Where the store goes; need not exist yet."""

    @cached_property
    def dataset(self) -> Dataset:
        """The configured images. Raises DatasetError."""
        from pipeline.job import open_configured

        assert self.config is not None
        return open_configured(self.config)


Check = Callable[[Asked], Iterable[Finding]]


def examine(asked: Asked, checks: Sequence[Check]) -> list[Finding]:
    """What all checks find, in their order."""
    findings = []
    for check in checks:
        try:
            for finding in check(asked):
                findings.append(finding)
        except Exception as error:
            # Whatever is broken here, the other checks still have something to say.
            name = check.__name__.removeprefix("check_")
            what = f"cannot be examined ({type(error).__name__}: {_one_line(error)})"
            broken = isinstance(error, ImportError)
            advice = "install the packages again, as on a fresh machine" if broken else ""
            findings.append(Finding(name, "problem", what, advice))
    return findings


def check_python(asked: Asked) -> Iterator[Finding]:
    """The interpreter against `requires-python`."""
    from packaging.specifiers import SpecifierSet

    found, wanted = platform.python_version(), _project()["requires-python"]
    if SpecifierSet(wanted).contains(found, prereleases=True):
        yield Finding("python", "ok", f"{found} (wanted: {wanted})")
    else:
        yield Finding(
            "python", "problem", f"{found}, but {wanted} is needed", "make a new environment"
        )


def check_packages(asked: Asked) -> Iterator[Finding]:
    """Every package the project names, against its minimum."""
    from packaging.requirements import Requirement

    found = []
    for line in _project()["dependencies"]:
        requirement = Requirement(line)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            what = f"{requirement.name} is not installed"
        else:
            if requirement.specifier.contains(version, prereleases=True):
                found.append(f"{requirement.name} {version}")
                continue
            what = f"{requirement.name} is {version}, but {requirement.specifier} is needed"
        yield Finding("packages", "problem", what, f"python -m pip install '{line}'")
    yield Finding("packages", "ok", f"{len(found)} as wanted: {', '.join(found)}")


def check_optional(asked: Asked) -> Iterator[Finding]:
    """Packages one can do without."""
    for name, without in OPTIONAL.items():
        if importlib.util.find_spec(name):
            yield Finding("optional", "ok", f"{name} is installed")
        else:
            advice = f"if you want it: python -m pip install {name}"
            yield Finding("optional", "note", f"{name} is not installed: {without}", advice)


def check_devices(asked: Asked) -> Iterator[Finding]:
    """The accelerators torch sees, and whether the configured one is among them."""
    import torch

    from cache.units import human_bytes
    from pipeline.networks.backbone import pick_device
    from pipeline.networks.checkpoints import BackboneError

    if asked.config is not None:
        try:
            pick_device(asked.config.extraction.device)
        except BackboneError as error:
            yield Finding.of_error("device", error)
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        yield Finding(
            "device",
            "note",
            f"torch {torch.__version__} sees no GPU: everything runs on {os.cpu_count()} CPU cores",
            "enough for the built-in backbone; precompute the paper's on a machine with a GPU",
        )
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        memory = f"{human_bytes(free)} of {human_bytes(total)} free"
        yield Finding("device", "ok", f"cuda:{index} {name}, {memory}")
    if torch.backends.mps.is_available():
        yield Finding("device", "ok", "mps, which shares the machine's memory")


def check_memory(asked: Asked) -> Iterator[Finding]:
    """The machine's memory, or what a container leaves of it."""
    from cache.units import human_bytes

    n_bytes = machine_memory()
    if n_bytes >= MEMORY_WANTED:
        yield Finding("memory", "ok", human_bytes(n_bytes))
    else:
        what = f"{human_bytes(n_bytes)}; loading the paper's networks takes about 7 GiB"
        yield Finding("memory", "note", what, "use the built-in backbone, or a larger machine")


def check_disk(asked: Asked) -> Iterator[Finding]:
    """Room where the store goes; for a configuration, what it needs there."""
    from cache import RemotePath, StoreError
    from cache.units import human_bytes

    if isinstance(asked.out, RemotePath):
        return  # Nobody can tell how much room there is.
    place = asked.out.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        level: Level = "note" if asked.config is None else "problem"
        yield Finding("disk", level, f"{place} cannot be written to", "choose another by --out")
    try:
        needed = _bytes_needed(asked)
    except StoreError as error:
        yield Finding.of_error("disk", error)
        return
    room = f"{human_bytes(free)} free at {place}"
    if needed is None:
        yield Finding("disk", "ok", room)
    elif needed <= free:
        yield Finding("disk", "ok", f"{room}; the store needs {human_bytes(needed)}")
    else:
        yield Finding(
            "disk",
            "problem",
            f"{room}, but the store needs {human_bytes(needed)}",
            "choose another disk by --out, or --set extraction.store_dtype=int8",
        )


def check_files(asked: Asked) -> Iterator[Finding]:
    """How many files may be open: a reader keeps shards open."""
    from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

    limit, _ = getrlimit(RLIMIT_NOFILE)
    if limit == RLIM_INFINITY or limit >= FILES_WANTED:
        number = "any number" if limit == RLIM_INFINITY else f"{limit:,}"
        yield Finding("open files", "ok", f"{number} at a time")
    else:
        what = f"only {limit:,} at a time: large stores are read more slowly"
        yield Finding("open files", "note", what, f"ulimit -n {4 * FILES_WANTED}")


def check_hub(asked: Asked) -> Iterator[Finding]:
    """Whether weights could be downloaded."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        why: str | None = "HF_HUB_OFFLINE is set"
    else:
        why = why_unreachable(constants.ENDPOINT, HUB_SECONDS)
    if why is None:
        yield Finding("hub", "ok", "reachable")
    else:
        yield Finding(
            "hub",
            "note",
            f"not reachable ({why}): needed only for downloads",
            "weights that are on this machine work without it",
        )


def check_weights(asked: Asked) -> Iterator[Finding]:
    """Whether the networks' weights are on this machine: the configured ones, or all presets'."""
    if asked.config is not None:
        yield from _weights(asked.config.backbone, "problem")
        return
    for name in preset_names("backbone"):
        yield from _weights(load_config("demo", [f"backbone={name}"]).backbone, "note")


def check_injection(asked: Asked) -> Iterator[Finding]:
    """The configured injection file."""
    if asked.config is None or asked.config.extraction.injection is None:
        return
    from pipeline.networks.injection import InjectionError, open_injection

    if asked.config.extraction.injection == RANDOM:
        yield Finding("injection", "ok", "random, at every site")
        return
    try:
        injection = open_injection(asked.config.extraction.injection)
    except InjectionError as error:
        yield Finding.of_error("injection", error)
    else:
        yield Finding("injection", "ok", f"at {', '.join(injection.sites)}")


def check_dataset(asked: Asked) -> Iterator[Finding]:
    """Whether the images are where they should be, and how many."""
    if asked.config is None:
        return
    from pipeline.datasets.base import DatasetError

    try:
        dataset = asked.dataset
        labels = dataset.annotations.labels.values()
    except DatasetError as error:
        yield Finding.of_error("dataset", error)
        return
    counts = [f"{len(dataset.ids):,} images"]
    for domain in ("sketch", "photo"):
        n = sum(label.domain == domain for label in labels)
        counts += [f"{n:,} {domain}{'es' if domain == 'sketch' else 's'}"] if n else []
    n_categories = len({label.category for label in labels if label.category})
    counts += [f"{n_categories:,} categories"] if n_categories else []
    counts += [f"{len(dataset.skipped):,} other files left out"] if dataset.skipped else []
    where = f" under {dataset.root}" if dataset.root else ""
    yield Finding("dataset", "ok", f"{dataset.name}{where}: {', '.join(counts)}")


CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_optional,
    check_devices,
    check_memory,
    check_disk,
    check_files,
    check_hub,
    check_weights,
    check_injection,
    check_dataset,
)
"""In the order they are told."""


def why_unreachable(url: str, seconds: float) -> str | None:
    """Why a server does not answer in time; None if it does.

    Looking up a name has no timeout of its own, so the question is asked in a thread.
    """
    answers: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, method="HEAD"), timeout=seconds
            ):
                answers.append(None)
        except Exception as error:
            # urllib, ssl and sockets have many kinds; all mean that there is no answer.
            reason = getattr(error, "reason", error)
            answers.append(_one_line(reason if isinstance(reason, Exception) else error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"no answer within {seconds:g} s"


def _project() -> dict[str, Any]:
    """`requires-python` and `dependencies`: of the checkout, else of the installed package."""
    if _PYPROJECT.is_file():
        project: dict[str, Any] = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]
        return project
    requires = importlib.metadata.requires("sketchfusion") or []
    return {
        "requires-python": importlib.metadata.metadata("sketchfusion")["Requires-Python"],
        "dependencies": [line for line in requires if "extra ==" not in line],
    }


def _bytes_needed(asked: Asked) -> int | None:
    """What is still to be written of the configured store; None where that cannot be said.

    Raises StoreError where a damaged store is there already.
    """
    if asked.config is None:
        return None
    from pipeline.datasets.base import DatasetError
    from pipeline.networks.checkpoints import BackboneError
    from pipeline.networks.injection import InjectionError
    from pipeline.plan import make_plan

    try:
        return make_plan(asked.config, asked.out).bytes_needed
    except (BackboneError, DatasetError, InjectionError):
        return None  # Another check says why.


def _weights(backbone: BackboneConfig, missing: Level) -> Iterator[Finding]:
    """The networks of one backbone; `missing` is the level of what is not here."""
    name = backbone.label
    if backbone.weights == "random":
        yield Finding("weights", "ok", f"{name}: random, nothing to download")
        return
    from pipeline.networks.checkpoints import BackboneError
    from pipeline.networks.local_weights import clip_weights, sd_folder_here, timm_weights

    clip = backbone.clip
    if clip is not None:
        activation = _activation(name, clip)
        yield activation
        clip = clip if activation.level != "problem" else None
    networks: tuple[tuple[str, Any, Callable[[Any], Path]], ...] = (
        ("Stable Diffusion", backbone.sd, sd_folder_here),
        ("CLIP", clip, clip_weights),
        ("vision transformer", backbone.timm, timm_weights),
    )
    for network, config, find in networks:
        if config is None:
            continue
        try:
            yield Finding("weights", "ok", f"{name}: {network} in {find(config)}")
        except BackboneError as error:
            found = Finding.of_error("weights", error, missing)
            yield replace(found, what=f"{name}: {found.what}")


def _activation(name: str, config: ClipConfig) -> Finding:
    """Whether CLIP's activation is that of its weights: OpenAI's need QuickGELU."""
    from pipeline.networks.activation import UNKNOWN_ADVICE
    from pipeline.networks.checkpoints import BackboneError
    from pipeline.networks.clip import activation_doubt

    try:
        doubt = activation_doubt(config)
    except BackboneError as error:
        return Finding.of_error("activation", error)
    if doubt:
        return Finding("activation", "note", f"{name}: {doubt}", UNKNOWN_ADVICE)
    weights = config.pretrained or "its own weights"
    both = f"{config.model} has the activation that {weights} was trained with"
    return Finding("activation", "ok", f"{name}: {both}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
