"""Files as a stranger might send them: seeded damage to sound ones.

`SKETCHFUSION_FUZZ=50 pytest tests/hostile` tries fifty times as many, with other seeds.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

EFFORT = int(os.environ.get("SKETCHFUSION_FUZZ", "1"))

_BYTES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\n", b"\r", b'"', b"{", b"[", b"../", b"1e400")
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**15, 10**400, 0.5, -0.0, float("nan"),
    float("inf"), "", "x", "../../etc/passwd", "/etc/passwd", "a\0b", "a\nb", "\x1b[31m", "\ud800",
    [], {}, [None], [[]], ["x"], [1, 2, 3], {"x": 1}, "NaN", "float16", 1000,
)  # fmt: skip


def damaged(data: bytes, n: int, seed: int) -> Iterator[bytes]:
    """`n` (times the effort) damaged copies of a file's bytes, the same ones every time."""
    for i in range(n * EFFORT):
        yield _damage(data, random.Random(f"{seed}:{i}"))


def _damage(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        at = rng.randrange(len(out))
        # Headers are short and hold what decides: half of all damage goes there.
        at = rng.randrange(min(len(out), 128)) if rng.random() < 0.5 else at
        match rng.randrange(7):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.randrange(256)
            case 2:
                del out[at:]
            case 3:
                del out[at : at + rng.randrange(1, 32)]
            case 4:
                start = rng.randrange(len(out))
                out[at:at] = out[start : start + rng.randrange(1, 64)]
            case 5:
                out[at:at] = rng.choice(_BYTES) * rng.choice((1, 1, 1, 50))
            case _:  # a length or a count that lies
                size = rng.choice((2, 4, 8))
                lie = rng.choice((0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1))
                out[at : at + size] = lie.to_bytes(size, rng.choice(("little", "big")))
    return bytes(out)


def damaged_json(document: Any, n: int, seed: int) -> Iterator[Any]:
    """`n` (times the effort) copies of plain JSON with values replaced, dropped or moved."""
    for i in range(n * EFFORT):
        rng = random.Random(f"{seed}:{i}")
        copy = json.loads(json.dumps(document))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            copy = _change(copy, rng)
        yield copy


def _change(document: Any, rng: random.Random) -> Any:
    places = list(_places(document))
    if not places:
        return rng.choice(_VALUES)
    holder, key = rng.choice(places)
    match rng.randrange(5):
        case 0:
            del holder[key]
        case 1:
            other, name = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[name]))
        case 2 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = rng.choice((-holder[key], holder[key] + 1, holder[key] * 2, 10**9))
        case 3 if isinstance(holder, dict):
            holder[rng.choice(("x", "", "..", "\n", "__class__"))] = rng.choice(_VALUES)
        case _:
            holder[key] = rng.choice(_VALUES)
    return document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(inside):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)
