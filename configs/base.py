"""What the sections of a configuration have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

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

RANDOM = "random"
"""In place of an injection file: untrained convolutions."""


def _random_or_path(value: Any, as_path: ValidatorFunctionWrapHandler) -> Any:
    return value if value == RANDOM else as_path(value)


def _place(value: Any, as_path: ValidatorFunctionWrapHandler) -> Any:
    """A path, but for a URL, which would lose a slash."""
    if isinstance(value, str) and "://" in value:
        return value
    return as_path(value)


if TYPE_CHECKING:
    InjectionPlace = Path | str
    StorePlace = Path | str
else:
    InjectionPlace = Annotated[
        FilePath, WrapValidator(_random_or_path), PlainSerializer(str, when_used="json")
    ]
    StorePlace = Annotated[FilePath, WrapValidator(_place), PlainSerializer(str, when_used="json")]
"""A store: a local path, or the text of a URL such as `s3://bucket/store`."""


def one_is_a_list_of_one(value: Any) -> Any:
    """So that `layers: s3` means `layers: [s3]`."""
    return [value] if isinstance(value, int | str) else value
