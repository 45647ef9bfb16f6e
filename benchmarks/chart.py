"""The picture of the ratios: requests a second, ours against each peer, a pair of bars for each row.

Plain SVG text: no library, and the same bytes for the same results. The axis is logarithmic, because rows
differ by a factor of fifty. The background is white, so it can be read on a dark page too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape

from targets import Outcome

_COLOURS = {
    "kserve": "#0072b2",
    "mosec": "#d55e00",
    "litserve": "#009e73",
}  # told apart by the colour-blind too
_LEFT, _RIGHT, _TOP, _BAR, _GAP = 190, 130, 74, 16, 14
_WIDTH = 860
_TEXT = 'font-family="Helvetica, Arial, sans-serif" fill="#222"'


def svg(found: list[Outcome]) -> str:
    """The chart of all outcomes that compare requests a second with a peer."""
    rows = _rows(found)
    ratios = [outcome.ratio for bars in rows.values() for outcome in bars]
    limits = [outcome.target.at_least or 1.0 for bars in rows.values() for outcome in bars]
    low = min([*ratios, *limits, 1.0]) / 1.3
    high = max([*ratios, *limits, 10.0])
    height = _TOP + sum(len(bars) * _BAR + _GAP for bars in rows.values()) + 46

    def x(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    body = [*_axis(low, high, height, x(1.0), {tick: x(tick) for tick in _ticks(low, high)})]
    y = float(_TOP)
    for label, bars in rows.items():
        middle = y + len(bars) * _BAR / 2 + 4
        body.append(
            f'<text x="{_LEFT - 10}" y="{middle:.1f}" text-anchor="end" {_TEXT}>{escape(label)}</text>'
        )
        peers = [_peer(outcome) for outcome in bars]
        for outcome in bars:
            variant = outcome.against.partition(", ")[2] if peers.count(_peer(outcome)) > 1 else ""
            body += _bar(outcome, variant, x, y)
            y += _BAR
        y += _GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" font-size="13" role="img" aria-label="Requests a second, ours / theirs">',
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text x="16" y="24" font-size="16" font-weight="bold" {_TEXT}>'
            f"Requests a second: modelserver / peer</text>",
            *_legend(),
            *body,
            "</svg>",
            "",
        ]
    )


def _rows(found: list[Outcome]) -> dict[str, list[Outcome]]:
    rows: dict[str, list[Outcome]] = {}
    for outcome in found:
        if outcome.target.figure == "rate" and _peer(outcome) in _COLOURS:
            clients = outcome.target.clients
            label = f"{outcome.target.group}, {clients} client{'s'[: clients - 1]}"
            rows.setdefault(label, []).append(outcome)
    for bars in rows.values():
        bars.sort(key=lambda outcome: list(_COLOURS).index(_peer(outcome)))
    return rows


def _peer(outcome: Outcome) -> str:
    return outcome.against.partition(",")[0]


def _ticks(low: float, high: float) -> Iterator[float]:
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for step in (1, 2, 5):
            if low <= step * 10.0**power <= high:
                yield step * 10.0**power


def _axis(low: float, high: float, height: int, one: float, ticks: dict[float, float]) -> Iterator[str]:
    bottom = height - 40
    for tick, place in ticks.items():
        yield f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP - 8}" y2="{bottom}" stroke="#dddddd"/>'
        yield f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="middle" {_TEXT}>{tick:g}x</text>'
    yield f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{_TOP - 8}" y2="{bottom}" stroke="#222222"/>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield (
        f'<text x="{middle:.0f}" y="{bottom + 34}" text-anchor="middle" {_TEXT}>'
        f"ours / theirs, logarithmic; 1x: equally fast</text>"
    )


def _bar(outcome: Outcome, variant: str, x: Callable[[float], float], y: float) -> Iterator[str]:
    left, right = sorted((x(1.0), x(outcome.ratio)))
    limit = outcome.target.at_least
    place = x(limit) if limit else right
    near = right - 2 < place < right + 60  # the number goes to the right of the target's mark, not under it
    text = (place if near else right) + 5
    colour = _COLOURS[_peer(outcome)]
    name = escape(f"{outcome.against}: {outcome.ratio:.2f}x")
    yield (
        f'<rect x="{left:.1f}" y="{y + 1:.1f}" width="{max(right - left, 1):.1f}" height="{_BAR - 3}" '
        f'fill="{colour}" fill-opacity="{0.55 if variant and not limit else 1}"><title>{name}</title></rect>'
    )
    yield (
        f'<text x="{text:.1f}" y="{y + _BAR - 4:.1f}" font-size="11" {_TEXT}>'
        f"{outcome.ratio:.2f}x{escape(f' ({variant})' if variant else '')}</text>"
    )
    if limit:
        yield (
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{y - 1:.1f}" y2="{y + _BAR - 1:.1f}" '
            f'stroke="#222222" stroke-width="2.5"/>'
        )


def _legend() -> Iterator[str]:
    place = 16
    for peer, colour in _COLOURS.items():
        yield f'<rect x="{place}" y="38" width="14" height="12" fill="{colour}"/>'
        yield f'<text x="{place + 20}" y="49" {_TEXT}>against {peer}</text>'
        place += 140
    yield f'<line x1="{place + 6}" x2="{place + 6}" y1="37" y2="51" stroke="#222222" stroke-width="2.5"/>'
    yield f'<text x="{place + 18}" y="49" {_TEXT}>target</text>'
