"""A run's folder: what it was asked, what it read, its weights, its curve.

RUN/config.yaml            the configuration, complete
RUN/run.json               stores and fingerprints, protocol and its version, machine, versions
RUN/images.txt             the images it could read, one id a line
RUN/split.json             which of them train, validate and test
RUN/metrics.jsonl          one line for each logged step and each validation
RUN/last.safetensors       everything needed to go on (.json: the same facts, to look at)
RUN/best.safetensors       the weights with the best validation result
RUN/injection.safetensors  the injection of those weights, where it was trained
RUN/statistics.json        what a statistics head chose on training images, and what it chose from
RUN/fitted.json            what evaluation took from training images for just these weights: a
                           threshold, or the names of the classes
RUN/evaluation.json        results, baselines, floors and chance
RUN/report.html            all of it to look at
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cache import FeatureStore, Recipe, RecipeMismatch, StorePath, store_path
from cache.storage.files import remove_abandoned_staging
from configs import Config, ConfigError, load_config
from configs.load import resolve_paths
from heads.protocols import Parts
from heads.protocols.base import Images
from heads.statistics.choices import Choices
from heads.statistics.search import SearchResult
from heads.tasks import TASKS, Fitted
from heads.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, write_text


class RunError(ValueError):
    """A run's folder that cannot be used as asked; the message says why and what to do."""


_UNREADABLE = (
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)
"""What a document that nobody wrote may raise while it is taken apart."""
_COUNTERS = ("step", "epoch")
"""What every line of the curve has."""


class Run:
    """The files of one run; see the module's docstring for their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_path = folder / "config.yaml"
        self.last = folder / "last.safetensors"
        self.best = folder / "best.safetensors"
        self.injection = folder / "injection.safetensors"
        self.evaluation = folder / "evaluation.json"
        self.report = folder / "report.html"
        self._statistics = folder / "statistics.json"
        self._fitted = folder / "fitted.json"
        self._facts = folder / "run.json"
        self._images = folder / "images.txt"
        self._split = folder / "split.json"
        self._metrics = folder / "metrics.jsonl"

    @property
    def exists(self) -> bool:
        """Whether something was begun here."""
        return self.config_path.is_file()

    def check_free(self) -> None:
        """Raise RunError where the folder holds something that is not of a run."""
        own = {self._facts, self._images, self._split, self.folder / "live", self.folder / "store"}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path not in own and path.suffix != ".tmp":
                raise RunError(
                    f"{self.folder}: not a run, and it holds {path.name}; choose another --out"
                )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training into the folder, which is made if need be.

        Raises RunError if one does. The system lets go of it when the process ends, however.
        Temporary files of writers that were killed are removed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunError(
                f"{self.folder}: another process is training into it; wait for it, or choose "
                "another --out"
            ) from None
        except OSError:
            pass  # A file system without locks.
        remove_abandoned_staging(self.folder)
        try:
            yield
        finally:
            os.close(descriptor)

    def begin(
        self,
        config: Config,
        stores: Sequence[FeatureStore],
        images: Images,
        parts: Parts[Any],
        facts: Mapping[str, Any],
    ) -> None:
        """Write down what is asked, what is read and what for; the configuration last, as it
        makes the folder a run. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        read = [
            {
                "path": str(store.path.resolve()),
                "fingerprint": store.fingerprint,
                "recipe": dict(store.recipe.fields),
                "provenance": {"aliases": dict(store.recipe.aliases)},
            }
            for store in stores
        ]
        write_text(self._facts, json.dumps({**facts, "stores": read}, indent=2) + "\n")
        write_text(self._images, "".join(f"{json.dumps(name)}\n" for name in images))
        write_text(self._split, json.dumps(parts.ids(), indent=1) + "\n")
        write_text(self.config_path, dump_config(config))

    def config(self) -> Config:
        """The configuration. Raises RunError where there is no run here."""
        if not self.exists:
            raise RunError(f"{self.folder}: not a run (it has no config.yaml); train one first")
        return load_config(self.config_path)

    def check_config(self, config: Config) -> None:
        """Raise RunError where this run was begun with another configuration."""
        ours, asked = (
            yaml.safe_load(dump_config(self.config())),
            yaml.safe_load(dump_config(config)),
        )
        differences = _plain_differences(ours, asked)
        if differences:
            raise RunError(
                f"{self.folder}: was begun with another configuration "
                f"({'; '.join(differences[:5])}); choose another --out, or ask for the same"
            )

    def facts(self) -> dict[str, Any]:
        """What `begin` wrote beside the configuration. Raises RunError."""
        try:
            document = json.loads(self._facts.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise RunError(f"{self._facts}: missing or damaged; train the run again") from None
        if not isinstance(document, dict) or not _are_stores(document.get("stores")):
            raise RunError(f"{self._facts}: is not what a run writes; train the run again")
        return document

    def protocol_version(self) -> int:
        """The version of its protocol that the run was begun with; 1 if it predates versions.

        Raises RunError as `facts`.
        """
        return _version_in(self.facts())

    def evaluated_version(self) -> int | None:
        """The version of the protocol that the last evaluation counted by; None without one."""
        try:
            document = json.loads(self.evaluation.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return _version_in(document) if isinstance(document, dict) else None

    def recipes(self) -> list[Recipe]:
        """The recipes of the stores that the run read, one for each. Raises RunError."""
        return [
            Recipe.recorded(entry["recipe"], entry.get("provenance"))
            for entry in self.facts()["stores"]
        ]

    def store_paths(self) -> list[StorePath]:
        """Where the run's stores were."""
        return [store_path(str(entry["path"])) for entry in self.facts()["stores"]]

    def only_store(self) -> StorePath:
        """Where the run's store was. Raises RunError where it read several."""
        paths = self.store_paths()
        if len(paths) > 1:
            raise RunError(
                f"{self.folder}: was trained on several stores; choose one with --gallery"
            )
        return paths[0]

    def check_stores(self, stores: Sequence[FeatureStore]) -> None:
        """Raise RecipeMismatch unless these are stores of the recipes that the run read."""
        known = self.recipes()
        for store in stores:
            if all(store.recipe.differences(recipe) for recipe in known):
                raise RecipeMismatch(
                    f"{store.path}: not the store that {self.folder} was trained on "
                    f"({'; '.join(store.recipe.differences(known[0]))}); give that one"
                )

    def image_ids(self) -> list[str]:
        """The images that the run could read when it was begun. Raises RunError."""
        try:
            lines = self._images.read_text(encoding="utf-8").splitlines()
            names = [json.loads(line) for line in lines]
        except (OSError, ValueError, RecursionError):
            names = []
        if not names or not all(isinstance(name, str) for name in names):
            raise RunError(f"{self._images}: missing or damaged; train the run again")
        return names

    def statistics(self) -> SearchResult | None:
        """What the run's statistics head chose; None if nothing was chosen yet, or the head is
        another. Raises RunError for a damaged file."""
        try:
            text = self._statistics.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            text = ""
        try:
            return SearchResult.parse(json.loads(text))
        except _UNREADABLE:
            raise RunError(
                f"{self._statistics}: damaged, so the head cannot be built; restore it, or train "
                "the run again in another folder"
            ) from None

    def write_statistics(self, found: SearchResult) -> None:
        """Keep what a statistics head chose. Raises OSError."""
        write_text(self._statistics, json.dumps(found.as_json(), indent=1) + "\n")

    def choices(self) -> Choices | None:
        """The choices alone. Raises RunError as `statistics` does."""
        found = self.statistics()
        return None if found is None else found.choices

    def best_checkpoint(self) -> Checkpoint:
        """The weights with the best validation result. Raises CheckpointError."""
        return load_checkpoint(self.best)

    def weights_digest(self) -> str:
        """Hex SHA-256 of the file with the best weights. Raises CheckpointError."""
        try:
            with self.best.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(
                f"{self.best}: cannot be read ({error.strerror}); train the run first"
            ) from None

    def fitted(self, fit: Callable[[], Fitted]) -> Fitted:
        """What was fitted with the best weights; fitted now, and kept, where it is not there.

        Raises CheckpointError and OSError.
        """
        weights = self.weights_digest()
        known = self._known_fitted(weights)
        if known is not None:
            return known
        fitted = fit()
        document = {
            "weights": weights,
            "numbers": dict(fitted.numbers),
            "classes": list(fitted.classes),
        }
        write_text(self._fitted, json.dumps(document, indent=1) + "\n")
        return fitted

    def read_fitted(self, weights: str) -> Fitted:
        """What was fitted with the weights of this digest. Raises RunError where it is missing, or
        of others."""
        fitted = self._known_fitted(weights)
        if fitted is None:
            raise RunError(
                f"{self._fitted}: missing, incomplete, or of other weights than {self.best.name}; "
                f"`sketchfusion evaluate {self.folder}` writes it"
            )
        return fitted

    def _known_fitted(self, weights: str) -> Fitted | None:
        try:
            document = json.loads(self._fitted.read_text(encoding="utf-8"))
            numbers = {str(name): float(number) for name, number in document["numbers"].items()}
            fitted = Fitted(numbers, tuple(map(str, document["classes"])))
            fits = document["weights"] == weights and all(map(math.isfinite, numbers.values()))
        except _UNREADABLE:
            return None
        task = self.config().task
        return fitted if fits and task is not None and TASKS[task].is_fitted(fitted) else None

    def check_split(self, parts: Parts[Any]) -> None:
        """Raise RunError unless these are the parts that the run was begun with: a result must
        not come from images that were trained on, nor from fewer than it says."""
        try:
            ours = json.loads(self._split.read_text(encoding="utf-8"))
            known = {name: set(ours[name]) for name in ("train", "val", "test")}
            if not all(isinstance(image_id, str) for ids in known.values() for image_id in ids):
                raise ValueError("ids are text")
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            raise RunError(f"{self._split}: missing or damaged; train the run again") from None
        for name, ids in parts.ids().items():
            strangers = sorted(known[name] ^ set(ids))
            if strangers:
                where = "not any more" if strangers[0] in known[name] else "only now"
                raise RunError(
                    f"{self.folder}: the dataset gives another split than it was trained with: "
                    f"{strangers[0]} is {where} in the {name} part; restore the dataset, or train "
                    "a new run"
                )

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append a line to the curve."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(entry)) + "\n")

    def curve(self) -> list[dict[str, Any]]:
        """All whole lines of the curve."""
        if not self._metrics.is_file():
            return []
        entries = []
        for line in self._metrics.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue  # The last line of a run that was killed while it wrote.
            if isinstance(entry, dict) and _is_curve_line(entry):
                entries.append(entry)
        return entries

    def rewind(self, step: int, epoch: int) -> None:
        """Drop what the curve says of steps after `step`, and of validations after `epoch`: they
        will be done again."""
        kept = [
            entry
            for entry in self.curve()
            if entry["step"] <= step and ("validation" not in entry or entry["epoch"] <= epoch)
        ]
        write_text(self._metrics, "".join(json.dumps(entry) + "\n" for entry in kept))


def _is_curve_line(entry: Mapping[str, Any]) -> bool:
    """Whether a line counts steps and epochs, and what it measured is numbers."""
    validation = entry.get("validation", {})
    return (
        all(type(entry.get(counter)) is int for counter in _COUNTERS)
        and isinstance(validation, dict)
        and all(
            type(value) in (int, float) for value in (entry.get("loss", 0), *validation.values())
        )
    )


def dump_config(config: Config) -> str:
    """A configuration as YAML, with every default, and paths that hold from anywhere."""
    document = config.model_dump(mode="json")
    resolve_paths(document, Path.cwd())
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def open_run(folder: Path) -> Run:
    """The run in a folder. Raises RunError where there is none."""
    run = Run(folder)
    try:
        run.config()
    except ConfigError as error:
        raise RunError(f"{folder}: its configuration cannot be used ({error})") from None
    return run


def _version_in(document: Mapping[str, Any]) -> int:
    """The protocol's version that a run's document records; 1 without a usable one."""
    version = document.get("protocol_version")
    return version if type(version) is int and version > 0 else 1


def _are_stores(entries: Any) -> bool:
    """Whether this is how `begin` writes down the stores that a run reads."""
    return (
        isinstance(entries, list)
        and bool(entries)
        and all(
            isinstance(entry, dict)
            and isinstance(entry.get("path"), str)
            and isinstance(entry.get("fingerprint"), str)
            and isinstance(entry.get("recipe"), dict)
            for entry in entries
        )
    )


def _plain_differences(ours: Any, asked: Any, prefix: str = "") -> list[str]:
    """One line for each value that differs between two nested mappings."""
    if isinstance(ours, dict) and isinstance(asked, dict):
        return [
            line
            for key in dict.fromkeys([*ours, *asked])
            for line in _plain_differences(ours.get(key), asked.get(key), f"{prefix}{key}.")
        ]
    return [] if ours == asked else [f"{prefix[:-1]}: the run has {ours}, asked is {asked}"]
