"""Words and figures as HTML. The only place that writes any: whatever comes from a scene, a model or a message goes through
`text`, so that it is shown and never read as HTML.
"""

from __future__ import annotations

import html
import math
import zlib
from typing import Iterable, Sequence

# Colours that stay apart from each other, on the picture and in space.
PALETTE = ("#ffb300", "#00b0ff", "#76ff03", "#ff5282", "#ba68ff", "#1de9b6", "#ff8a50", "#7890ff", "#fff176", "#00e5ff")
LONGEST = 4000
_FONT = "font-size:13px;line-height:1.45;padding:2px var(--mantine-spacing-xs);overflow-wrap:anywhere"


def text(words: object) -> str:
    """Anything as it reads; directions of writing end where it ends, and what is very long is cut."""
    shown = str(words)
    shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}… ({len(shown)} characters)"
    return f"<bdi>{html.escape(shown)}</bdi>"


def block(name: str, *parts: str) -> str:
    """A part of a panel. name: of its class, by which tests find it."""
    return f'<div class="qwen {name}" style="{_FONT}">{"".join(parts)}</div>'


def note(words: str, colour: str = "#888") -> str:
    return f'<div style="color:{colour}">{text(words)}</div>'


def table(rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """rows: of cells that are HTML already."""
    last = '<td style="padding:1px 8px 1px 0;vertical-align:top">'
    cell = f'{last[:-2]};white-space:nowrap">'
    head = "".join(f'<th style="text-align:left;padding-right:8px">{text(h)}</th>' for h in heads)
    lines = "".join(
        f"<tr>{''.join(f'{cell if i < len(row) - 1 else last}{c}</td>' for i, c in enumerate(row))}</tr>"
        for row in rows
    )
    return f'<table style="border-collapse:collapse">{f"<tr>{head}</tr>" if heads else ""}{lines}</table>'


def colour_of(id: str) -> str:
    """Of an object: the node's ids are numbers, and neighbours differ."""
    return PALETTE[(int(id[-6:]) if id[-6:].isdecimal() else zlib.crc32(id.encode())) % len(PALETTE)]


def boxes_svg(size_px: tuple[int, int], boxes: Iterable[tuple[float, float, float, float, str, str]]) -> str:
    """Over the picture that follows it: boxes (x0, y0, x1, y1, label, colour), pixels of the picture."""
    width, height = size_px
    unit = max(width, 320) / 640
    shapes = []
    for x0, y0, x1, y1, label, colour in boxes:
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            continue
        y = y0 - 4 * unit if y0 > 20 * unit else y1 + 15 * unit
        shapes.append(
            f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{max(x1 - x0, 0):.1f}" height="{max(y1 - y0, 0):.1f}" fill="none" '
            f'stroke="{colour}" stroke-width="{2 * unit:.1f}"/><text x="{x0:.1f}" y="{y:.1f}" fill="{colour}" '
            f'font-size="{15 * unit:.0f}" stroke="#101216" stroke-width="{3 * unit:.1f}" paint-order="stroke" '
            f'font-family="sans-serif" font-weight="600">{html.escape(label)}</text>'
        )
    return (
        '<div style="position:relative;height:0"><svg class="qwen boxes" '
        f'viewBox="0 0 {width} {height}" style="position:absolute;top:0;left:var(--mantine-spacing-xs);z-index:1;'
        f"width:calc(100% - 2 * var(--mantine-spacing-xs));max-width:{width}px;pointer-events:none;overflow:hidden"
        f'">{"".join(shapes)}</svg></div>'
    )


def line_svg(values: Sequence[float], limit: float = math.nan, width: int = 120, height: int = 26) -> str:
    """A small plot, the oldest value first; a limit is drawn dashed. What is not finite is a gap."""
    known = [v for v in values if math.isfinite(v)]
    if len(known) < 2:
        return ""
    levels = [*known, limit] if math.isfinite(limit) else known
    low, high = min(levels), max(levels)
    span = (high - low) or 1.0
    y = lambda v: 2 + (height - 4) * (1 - (v - low) / span)
    x = lambda i: i * width / (len(values) - 1)
    parts, path, pen = [], [], "M"
    for i, value in enumerate(values):
        if math.isfinite(value):
            path.append(f"{pen}{x(i):.1f} {y(value):.1f}")
            pen = "L"
        else:
            pen = "M"
    if math.isfinite(limit):
        parts.append(f'<path d="M0 {y(limit):.1f}H{width}" stroke="#e53935" stroke-dasharray="4 3" fill="none"/>')
    parts.append(f'<path d="{"".join(path)}" stroke="#1e88e5" stroke-width="1.5" fill="none"/>')
    return (
        f'<svg class="qwen plot" width="{width}" height="{height}" style="vertical-align:middle">{"".join(parts)}</svg>'
    )
