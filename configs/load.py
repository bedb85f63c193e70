"""From a file or a preset's name, and `--set` overrides, to a validated `Config`.

Names are expanded first (`backbone: nano` becomes the mapping in `configs/backbones/nano.yaml`),
then overrides apply, then the schema checks everything. Relative paths in a file are relative to
the file's folder if they exist there, and to the working directory otherwise.
"""

from __future__ import annotations

import difflib
import os
import types
import typing
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from configs.base import RANDOM, one_is_a_list_of_one
from configs.reading import UnreadableYaml, parse_yaml, read_yaml
from configs.schema import Config

HERE = Path(__file__).parent
SECTIONS = {
    "backbone": "backbones",
    "dataset": "datasets",
    "task": "tasks",
    "architecture": "architectures",
}
SUITES = ("paper", "shapes", "shapes-paper")
"""Folders of whole configurations: `paper/<name>` for the paper's tables, `shapes/<name>` for the
procedural world, `shapes-paper/<name>` for the same with the paper's head."""


_PLAIN_WORDS = {
    "model_type": "must be a section with keys of its own",
    "dict_type": "must be a section with keys of its own",
    "path_type": "must be a path; put quotes around one that looks like a number or a date",
    "tuple_type": "must be a list, as [1, 2]",
}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key and what to do."""


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, or the preset of that name, and apply `a.b=c` overrides.

    Raises ConfigError for an unreadable file, an unknown key (naming the nearest valid one) or a
    value of the wrong kind.
    """
    path = _find(source)
    document = _read_mapping(path)
    for section in ("backbone", "dataset"):
        if isinstance(document.get(section), str):
            document[section] = _expand(section, document[section], path.parent)
    resolve_paths(document, path.parent)
    for override in overrides:
        _apply(document, override)
    _refuse_controls(document, str(path))
    document["train"] = _with_task_defaults(document.get("task"), document.get("train"))
    document.setdefault("name", path.stem)
    # `extraction:` with nothing below it means the defaults.
    document = {key: value for key, value in document.items() if value is not None}
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        key, message = _first_problem(error)
        blamed = [item for item in overrides if key.startswith(item.partition("=")[0].strip())]
        where = f"--set {blamed[-1][:80]}" if blamed else path
        raise ConfigError(f"{where}: {message}") from None


def preset_names(section: str = "") -> list[str]:
    """Names that may stand for a file: whole configurations, or those of one section."""
    if section:
        return sorted(path.stem for path in (HERE / SECTIONS[section]).glob("*.yaml"))
    return sorted(
        path.relative_to(HERE).with_suffix("").as_posix()
        for folder in (HERE, *(HERE / suite for suite in SUITES))
        for path in folder.glob("*.yaml")
    )


def key_names() -> list[str]:
    """Every dotted key that a configuration may have, sections included."""
    return list(_dotted_keys(Config))


def preset_text(path: str) -> str:
    """The text of a file shipped in `configs/`, for instance `architectures/sd21.yaml`."""
    return (HERE / path).read_text(encoding="utf-8")


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    known = preset_names()
    if str(source) in known:
        return HERE / f"{source}.yaml"
    raise ConfigError(
        f"{source}: no such file, and no preset of that name (presets: {', '.join(known)})"
    )


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        document = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnreadableYaml as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys to values")
    return document


def _refuse_controls(value: Any, where: str, key: str = "") -> None:
    """Text ends up in file names and on terminals: only what can be seen there."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_controls(name, where, f"a key of {key or 'the file'}")
            _refuse_controls(inner, where, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            _refuse_controls(inner, where, key)
    elif isinstance(value, str) and any(unicodedata.category(c) in ("Cc", "Cs") for c in value):
        raise ConfigError(f"{where}: {key}: holds a control character; write it without")


def _expand(section: str, name: str, beside: Path) -> dict[str, Any]:
    """The mapping a section's name or path stands for."""
    for path in (HERE / SECTIONS[section] / f"{name}.yaml", beside / name, Path(name)):
        if path.is_file():
            mapping = _read_mapping(path)
            resolve_paths({section: mapping}, path.parent)
            return mapping
    known = preset_names(section)
    raise ConfigError(
        f"{section}: {name!r} is neither a file nor one of {known}{_nearest(name, known)}"
    )


def _with_task_defaults(task: Any, train: Any) -> Any:
    """`train` laid over what `configs/tasks` says of the task."""
    path = HERE / SECTIONS["task"] / f"{task}.yaml"
    if not (isinstance(task, str) and path.parent == HERE / SECTIONS["task"] and path.is_file()):
        return train  # The schema says what is wrong with the task's name.
    return _overlaid(_read_mapping(path), {} if train is None else train)


def _overlaid(below: Any, above: Any) -> Any:
    """Mappings key by key, anything else replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _overlaid(below.get(key), value) for key, value in above.items()}


def _apply(document: dict[str, Any], override: str) -> None:
    """Set one dotted key; the value is read as YAML, so `null`, `true` and `[1, 2]` work."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: write it as section.key=value")
    _check_key(keys, dotted)
    try:
        value = parse_yaml(text)
    except UnreadableYaml as error:
        raise ConfigError(f"--set {override[:80]}: the value {error}") from None
    if isinstance(value, str) and value.startswith("~"):
        value = os.path.expanduser(value)
    if len(keys) == 1 and keys[0] in ("backbone", "dataset") and isinstance(value, str):
        value = _expand(keys[0], value, Path.cwd())
    node = document
    for key in keys[:-1]:
        child = node.get(key)
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {key} is a single value, it has no keys")
        node = child
    node[keys[-1]] = value


def _check_key(keys: Sequence[str], dotted: str) -> None:
    """Refuse a dotted key the schema does not have."""
    model: type[BaseModel] | None = Config
    for depth, key in enumerate(keys):
        if model is None:
            raise ConfigError(f"--set {dotted}: {keys[depth - 1]} is a single value without keys")
        if key not in model.model_fields:
            nearest = _nearest(dotted, key_names())
            raise ConfigError(f"--set {dotted}: no such key{nearest}")
        field = model.model_fields[key]
        if typing.get_origin(field.annotation) is dict:
            return  # Whoever uses the mapping knows its keys.
        model = _section(field)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section of its own, None for a plain value."""
    kind: Any = field.annotation
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        section = _section(field)
        if section is not None:
            yield from _dotted_keys(section, f"{prefix}{name}.")


def resolve_paths(document: dict[str, Any], folder: Path) -> None:
    """Make relative paths that exist beside the file absolute; leave the rest as they are."""
    dataset, train = document.get("dataset"), document.get("train")
    also = dataset.get("also") if isinstance(dataset, dict) else None
    for further in also if isinstance(also, list) else ():
        resolve_paths({"dataset": further}, folder)
    if isinstance(train, dict):
        for key in ("caches", "baseline_caches"):
            paths = one_is_a_list_of_one(train.get(key))
            if isinstance(paths, list) and all(isinstance(path, str) for path in paths):
                train[key] = [_resolved(path, folder) for path in paths]
    places = (
        ("backbone", "sd", "source"),
        ("backbone", "clip", "model"),
        ("backbone", "clip", "pretrained"),
        ("backbone", "timm", "model"),
        ("backbone", "timm", "pretrained"),
        ("dataset", "root"),
        ("dataset", "masks"),
        ("extraction", "injection"),
        ("train", "variants", "lists"),
    )
    for *sections, key in places:
        node: Any = document
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if not isinstance(node, dict) or not isinstance(node.get(key), str):
            continue
        if node[key] == "":
            continue  # Not this folder: the schema says what is wrong with it.
        if node[key] in preset_names("architecture"):
            continue  # A folder that happens to be called `nano` is not meant.
        if key == "model" and not node[key].endswith(".json"):
            continue  # Nor one that is called like a model.
        if key == "injection" and node[key] == RANDOM:
            continue
        node[key] = _resolved(node[key], folder)


def _resolved(text: str, folder: Path) -> str:
    value = Path(os.path.expanduser(text))  # `~nobody` stays as it is, Path would raise
    if value.is_absolute():
        return str(value)
    return str((folder / value).resolve()) if text and (folder / value).exists() else text


def _first_problem(error: ValidationError) -> tuple[str, str]:
    """The key of pydantic's first complaint, and what is wrong with it in one line."""
    problem = error.errors(include_url=False)[0]
    dotted = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return dotted, f"unknown key {_short(dotted)}{_nearest(dotted, key_names())}"
    if problem["type"] == "missing":
        return dotted, f"{dotted} is missing"
    message = _PLAIN_WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return dotted, f"{dotted}: {message} (got {_short(repr(problem['input']))})"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"


def _nearest(name: str, valid: Sequence[str]) -> str:
    leaf = name.rsplit(".", 1)[-1]
    # Of keys that end alike the first counts: stage 1 comes before stage 2.
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in reversed(valid)}
    close = [by_leaf[leaf]] if leaf in by_leaf else []
    close = close or difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if not close:
        match = difflib.get_close_matches(leaf, list(by_leaf), n=1, cutoff=0.6)
        close = [by_leaf[match[0]]] if match else []
    return f"; did you mean {close[0]}?" if close else ""
