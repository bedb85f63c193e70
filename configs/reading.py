"""YAML as configurations are written: plain values, of a size that a person would write.

YAML can do more than hold values. A tag asks for a type of its own, and a few aliases of aliases
stand for a billion nodes, or for a document inside itself. None of that is needed here, so tags
are refused, and aliases count as what they stand for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 256 * 1024
"""Of a file; the longest preset has 2 KB."""
MAX_NODES = 10_000
"""Values in a document, keys included, with every alias written out."""
MAX_DEPTH = 50
MAX_DIGITS = 300
"""Of a number: below this every integer is also a float."""


class UnreadableYaml(ValueError):
    """Text that is not YAML, or more than a configuration needs; the message is one line."""


def read_yaml(path: Path) -> Any:
    """The document in a file. Raises UnreadableYaml and OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UnreadableYaml(f"is larger than {MAX_BYTES // 1024} KiB, no configuration is")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableYaml("is not UTF-8 text") from None
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """The document in a text. Raises UnreadableYaml."""
    try:
        return yaml.load(text, _PlainLoader)
    except UnreadableYaml:
        raise
    except RecursionError:
        raise UnreadableYaml(f"is not valid YAML: it is deeper than {MAX_DEPTH} levels") from None
    except Exception as error:
        # Besides its own errors PyYAML lets through what int, float and datetime make of a value.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnreadableYaml(f"is not valid YAML: {reason}") from None


class _PlainLoader(yaml.SafeLoader):
    """A SafeLoader that refuses tags and counts what aliases stand for."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}
        """Nodes by `id`: how many values each stands for. Filled when a node is complete."""
        self._total = 0
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        if not is_alias and event.tag is not None:
            raise UnreadableYaml(
                f"is not valid YAML: it has the tag {event.tag}; write the plain value"
            )
        if isinstance(event, yaml.ScalarEvent) and event.value.lstrip("+-")[:1].isdigit():
            self._check_number(event.value)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UnreadableYaml(f"is not valid YAML: it is deeper than {MAX_DEPTH} levels")
        before = self._total
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias:
            if id(node) not in self._sizes:
                raise UnreadableYaml(
                    f"is not valid YAML: *{event.anchor} lies inside &{event.anchor}"
                )
            self._total += self._sizes[id(node)]
        else:
            self._total += 1
            self._sizes[id(node)] = self._total - before
        if isinstance(node, yaml.MappingNode) and not is_alias:
            self._refuse_twins(node)
        if self._total > MAX_NODES:
            raise UnreadableYaml(f"stands for more than {MAX_NODES:,} values, aliases written out")
        return node

    @staticmethod
    def _refuse_twins(mapping: yaml.MappingNode) -> None:
        """Of two equal keys YAML would silently keep the last."""
        names = [key.value for key, _ in mapping.value if isinstance(key, yaml.ScalarNode)]
        if len(names) != len(set(names)):
            twin = next(name for name in names if names.count(name) > 1)
            raise UnreadableYaml(f"is not valid YAML: the key {twin[:60]} is there twice")

    @staticmethod
    def _check_number(text: str) -> None:
        if len(text) > MAX_DIGITS and not text.strip("0123456789abcdefxABCDEFX_:.+-"):
            raise UnreadableYaml(f"is not valid YAML: a number of {len(text):,} digits")
