"""Bytes, counts, seconds and names as people read them."""

from __future__ import annotations


def human_bytes(n: float) -> str:
    """`1.5 GiB`: binary units, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:,.3g} TiB" if n < 1000 else f"{n:,.0f} TiB"


def human_seconds(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `5 h 12 min` or `2 d 3 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, below, name, lower in (
        (1, 60, "s", ""),
        (60, 3600, "min", "s"),
        (3600, 86400, "h", "min"),
        (86400, float("inf"), "d", "h"),
    ):
        if whole < below:
            major, rest = divmod(whole, unit)
            minor = rest // {"s": 1, "min": 60, "h": 3600}.get(lower, 1)
            return f"{major} {name}" + (f" {minor} {lower}" if lower and minor else "")
    raise AssertionError("unreachable")


def human_flops(flops: float) -> str:
    """`270 GFLOP`: decimal units, three digits."""
    for unit in ("", "k", "M", "G", "T"):
        if abs(flops) < 1000:
            return f"{flops:.3g} {unit}FLOP"
        flops /= 1000
    return f"{flops:,.3g} PFLOP"


def printable(text: str) -> str:
    """File names may hold line breaks and terminal codes: show these, do not send them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
