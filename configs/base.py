"""What the sections of a configuration have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Layer = Literal["s3", "s4", "s5"]


class Section(BaseModel):
    """A mapping of the configuration: unknown keys are refused, values never change, and numbers
    are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Whole = Annotated[int, Field(strict=True)]
"""A whole number; `true` and `yes` are none."""


def _not_empty(value: Any) -> Any:
    if value == "":
        raise ValueError("is empty; give a path, or null for none")
    return value


FilePath = Annotated[Path, BeforeValidator(_not_empty)]


def _place(value: Any) -> Any:
    """A path loses what it does not need; a URL would lose a slash."""
    if isinstance(value, Path) or (isinstance(value, str) and value and "://" not in value):
        return str(Path(value))
    if not isinstance(value, str):
        raise ValueError("is no path or URL of a store")
    return _not_empty(value)


StorePlace = Annotated[str, BeforeValidator(_place)]
"""A store: a local path, or a URL such as `s3://bucket/store`."""


def one_is_a_list_of_one(value: Any) -> Any:
    """So that `layers: s3` means `layers: [s3]`."""
    return [value] if isinstance(value, int | str) else value
