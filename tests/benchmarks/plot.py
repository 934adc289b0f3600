"""A bar chart as SVG text, legible on light and dark pages alike; no library draws it."""

from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Bars", "bar_chart"]

# Blue, grey and orange that differ in lightness too.
_COLOURS = ("#1f6feb", "#9a9a9a", "#e08a1e", "#6f42c1")
_INK = "#7d8590"
_BAR, _GAP, _LEFT, _TOP = 18, 22, 132, 64
_WIDTH, _ROOM = 760, 520


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Groups of bars, each with a length by its series' name; None and absent ones are left out."""

    title: str
    unit: str
    groups: dict[str, dict[str, float]]


def bar_chart(bars: Bars) -> str:
    """Return the chart, a bar a line, from 0."""
    names = list(dict.fromkeys(name for group in bars.groups.values() for name in group))
    most = max(value for group in bars.groups.values() for value in group.values())
    parts: list[str] = [_text(12, 24, bars.title, size=15)]
    x = 12.0
    for number, name in enumerate(names):
        parts += [_box(x, 38, 11, 11, _COLOURS[number]), _text(x + 16, 48, name)]
        x += 34 + 6.4 * len(name)
    y = _TOP
    for label, group in bars.groups.items():
        parts.append(_text(_LEFT - 10, y + _BAR * len(group) / 2 + 4, label, anchor="end"))
        for name, value in group.items():
            length = _ROOM * value / most
            parts.append(_box(_LEFT, y, length, _BAR - 4, _COLOURS[names.index(name)]))
            parts.append(_text(_LEFT + length + 6, y + 11, f"{value:,.0f} {bars.unit}"))
            y += _BAR
        y += _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}">'
    return "\n".join([head, *parts, "</svg>", ""])


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "start") -> str:
    style = f'font-family="sans-serif" font-size="{size}" fill="{_INK}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
