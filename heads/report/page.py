"""The look of a report: one HTML page with its style inside, and the parts it is made of.

The page works without a network and follows the reader's light or dark preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heads.report.markup import Html, join, tag

_STYLE = Html(
    """
:root {
  color-scheme: light dark;
  --paper: #faf9f6; --card: #ffffff; --ink: #1d1f23; --soft: #5f636b; --rule: #e3e0d8;
  --accent: #0b5c8f; --note: #fdf3d8; --note-rule: #e0b13a; --code: #f2f0ea;
  --read: #e69f00; --compute: #0072b2; --write: #009e73;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #131519; --card: #1b1e24; --ink: #e9e7e2; --soft: #9ea2ab; --rule: #2d3138;
    --accent: #7fbce6; --note: #2a2516; --note-rule: #b98f2c; --code: #22262d;
    --read: #e6a817; --compute: #4a9fd8; --write: #2bb58c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 1160px; margin: 0 auto; padding: 56px 28px 96px; }
h1, h2, h3 { font-family: Charter, "Iowan Old Style", "Palatino Linotype", Georgia, serif; }
h1 { font-size: 44px; line-height: 1.1; margin: 6px 0 14px; letter-spacing: -.015em; }
h2 { font-size: 27px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -.01em; }
p { max-width: 46em; margin: 0 0 14px; }
a { color: var(--accent); }
h3 { font-size: 20px; line-height: 1.25; margin: 30px 0 6px; }
.overline {
  font-size: 13px; letter-spacing: .09em; text-transform: uppercase; color: var(--accent);
  font-weight: 600; margin: 0;
}
.lead { font-size: 19px; color: var(--soft); }
.soft, figcaption { color: var(--soft); font-size: 14px; }
figcaption { margin-top: 12px; max-width: 64em; }
figure { margin: 18px 0 0; }
section { border-top: 1px solid var(--rule); margin-top: 52px; padding-top: 34px; }
.note {
  background: var(--note); border-left: 4px solid var(--note-rule); border-radius: 4px;
  padding: 14px 20px; margin: 24px 0; max-width: none;
}
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
  margin: 28px 0 0; padding: 0;
}
.tile {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px 18px;
}
.tile dt { color: var(--soft); font-size: 13.5px; line-height: 1.35; }
.tile dd {
  margin: 0 0 4px; font-size: 26px; line-height: 1.25; font-weight: 600; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; white-space: nowrap;
}
.scroll { overflow-x: auto; }
.scroll + p { margin-top: 14px; }
table { border-collapse: collapse; font-size: 14.5px; margin: 16px 0 0; }
table.wide { width: 100%; }
th, td {
  text-align: left; padding: 7px 22px 7px 0; border-bottom: 1px solid var(--rule);
  vertical-align: top;
}
th.number:last-child, td.number:last-child { padding-right: 2px; }
thead th { color: var(--soft); font-weight: 600; font-size: 13px; white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code, .mono { font-size: .92em; overflow-wrap: anywhere; }
pre {
  background: var(--code); border-radius: 8px; padding: 14px 18px; overflow-x: auto;
  font-size: 14px; line-height: 1.55; margin: 12px 0 18px;
}
.bar { margin: 18px 0 22px; }
.bar svg { display: block; width: 100%; height: 22px; border-radius: 5px; }
.bar .title { display: flex; justify-content: space-between; gap: 20px; margin-bottom: 6px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 24px; margin-top: 8px; font-size: 14px; }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
.fill-read { fill: var(--read); background: var(--read); }
.fill-compute { fill: var(--compute); background: var(--compute); }
.fill-write { fill: var(--write); background: var(--write); }
.fill-rest { fill: var(--rule); background: var(--rule); }
.switch { font-size: 14px; cursor: pointer; user-select: none; }
.sheet {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(232px, 1fr)); gap: 18px 22px;
  margin-top: 14px;
}
.sheet figure { margin: 0; }
.sheet figcaption { margin-top: 3px; font-size: 13.5px; }
.pair { display: flex; gap: 2px; border-radius: 8px; overflow: hidden; }
.pair svg { width: 50%; display: block; }
.dots circle { stroke: #fff; stroke-width: .9; paint-order: stroke; }
#keypoints:not(:checked) ~ .sheet .dots { display: none; }
table.maps { font-size: 13px; }
table.maps th, table.maps td { border: 0; padding: 3px; }
table.maps thead th { text-align: center; line-height: 1.35; padding-bottom: 6px; }
table.maps td:nth-child(2n) { padding-left: 14px; }
table.maps tbody th { vertical-align: middle; padding-right: 6px; }
table.maps img { width: 92px; height: 92px; display: block; border-radius: 4px; }
img.cells { image-rendering: pixelated; }
img.plot {
  display: block; max-width: 100%; height: auto; padding: 12px; border-radius: 10px;
  background: #fff; border: 1px solid var(--rule);
}
ul.soft { padding-left: 20px; }
details { margin-top: 20px; }
summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 64px; color: var(--soft); font-size: 14px; }
@media (max-width: 640px) { main { padding: 32px 16px 64px; } h1 { font-size: 34px; } }
@media print { main { max-width: none; } section { break-inside: avoid; } }
"""
)


@dataclass(frozen=True)
class Section:
    """A part of a page under its own heading."""

    title: str
    body: Html


def render_page(title: str, header: Html, sections: Sequence[Section], footer: Html) -> str:
    """A whole page as text, to be written as UTF-8."""
    parts = [tag("section", tag("h2", section.title), section.body) for section in sections]
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", _STYLE),
    )
    main = tag("main", tag("header", header), *parts, tag("footer", footer))
    page = tag("html", tag("head", head), tag("body", main), lang="en")
    return f"<!doctype html>\n{page}\n"


def tiles(figures: Sequence[tuple[str, str]]) -> Html:
    """Headline figures: (value, what it is)."""
    return tag(
        "dl",
        *(tag("div", tag("dd", value), tag("dt", what), class_="tile") for value, what in figures),
        class_="tiles",
    )


def table(
    header: Sequence[object], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()
) -> Html:
    """A table over the whole width; the first cell of a row is its heading.

    Columns listed in `numbers` are set to the right.
    """

    def cell(kind: str, column: int, value: object) -> Html:
        return tag(kind, value, class_="number" if column in numbers else None)

    head = tag("tr", *(cell("th", column, value) for column, value in enumerate(header)))
    body = [
        tag("tr", *(cell("td" if column else "th", column, v) for column, v in enumerate(row)))
        for row in rows
    ]
    return tag(
        "div",
        tag("table", tag("thead", head), tag("tbody", *body), class_="wide"),
        class_="scroll",
    )


def facts(values: Sequence[tuple[str, object]]) -> Html:
    """A table of names and values without a header."""
    rows = [tag("tr", tag("th", name), tag("td", value)) for name, value in values]
    return tag("table", tag("tbody", *rows), class_="wide")


@dataclass(frozen=True)
class Share:
    """A part of a bar: `kind` is read, compute, write or rest, `label` its figure in words."""

    kind: str
    value: float
    label: str


def bar(title: str, total: str, shares: Sequence[Share]) -> Html:
    """A bar cut by shares, each named with its figure below."""
    whole = sum(share.value for share in shares) or 1.0
    pieces, start = [], 0.0
    for share in shares:
        width = 1000 * share.value / whole
        pieces.append(
            tag(
                "rect",
                x=f"{start:.2f}",
                y=0,
                width=f"{width:.2f}",
                height=22,
                class_=f"fill-{share.kind}",
            )
        )
        start += width
    legend = [
        tag("span", tag("i", class_=f"key fill-{share.kind}"), f"{share.kind} {share.label}")
        for share in shares
    ]
    spoken = f"{title}: " + ", ".join(f"{share.kind} {share.label}" for share in shares)
    return tag(
        "div",
        tag("div", tag("strong", title), tag("span", total, class_="soft"), class_="title"),
        tag(
            "svg",
            *pieces,
            viewbox="0 0 1000 22",
            preserveAspectRatio="none",
            role="img",
            aria_label=spoken,
        ),
        tag("div", *legend, class_="legend"),
        class_="bar",
    )


def commands(*lines: str) -> Html:
    """Shell commands, one a line."""
    return tag("pre", tag("code", "\n".join(lines)))
