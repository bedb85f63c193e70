"""What the exports that are folders have in common: `description.json`."""

from __future__ import annotations

import json
from pathlib import Path

from cache.errors import StoreError
from cache.exchange.contents import Description, parse_json
from cache.storage.places import read_file

DESCRIPTION = "description.json"


def write_description(folder: Path, described: Description) -> None:
    """Write the description into a folder."""
    text = json.dumps(described.to_json(), indent=2) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="ascii")


def read_description(folder: Path) -> Description:
    """The description of the export in a folder; StoreError where there is none that is sound."""
    file = folder / DESCRIPTION
    data = read_file(file)
    if data is None:
        raise StoreError(f"{folder}: no export: it has no {DESCRIPTION}")
    return Description.from_json(parse_json(data, str(file)), str(file))
