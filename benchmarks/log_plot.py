"""Log-log plots as PNG, drawn with Pillow, so that plotting adds no dependency.

write_plots("out.png", "title", [Panel("Gaussians", "ms", {"ours": [(1000, 0.4), (10000, 0.7)], "floor": [(1000, 0.001)]})], columns=1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from microdreamer.core.files import atomic_write

Point = tuple[float, float]

COLORS = ("#1f5fbf", "#d1495b", "#2e8b57", "#8c6bb1", "#c77d1e", "#444444")
SAMPLES = 3  # drawn that much larger, then reduced: Pillow's lines have no smooth edges
PANEL_WIDTH, PANEL_HEIGHT, FONT_SIZE = 360, 300, 13  # px
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 44  # px of a panel around its axes
TITLE, LEGEND = 26, 26  # px above and below the panels


@dataclass(frozen=True)
class Panel:
    """One pair of axes: `lines` are points (x, y), both above 0, by name. A name has the same colour in all panels."""

    x_label: str
    y_label: str
    lines: dict[str, list[Point]]


def ticks(low: float, high: float) -> list[float]:
    """Where an axis from `low` to `high` is labelled: powers of ten, or of two where these are fewer than two."""
    for base in (10, 2):
        first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
        if last > first:
            break
    step = max(1, (last - first) // 5)
    return [float(base) ** power for power in range(first, last + 1, step)]


def bounds(values: list[float]) -> Point:
    """The range of an axis: that of the values and a little more; never empty."""
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.06, 1.15)
    return low / margin, high * margin


def label(value: float) -> str:
    """A tick's text: whole numbers in full below 10 000, else 10^n."""
    if value >= 10_000 and math.log10(value).is_integer():
        return f"10^{int(math.log10(value))}"
    return f"{value:g}"


def write_plots(path: Path | str, title: str, panels: list[Panel], columns: int) -> None:
    """Write the panels in rows of `columns`, with one legend. Raises ValueError for an empty panel or a value not above 0."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    points = [point for panel in panels for line in panel.lines.values() for point in line]
    if not all(any(panel.lines.values()) for panel in panels) or not panels:
        raise ValueError("panels: expected points in every panel, got none")
    if not all(value > 0 for point in points for value in point):
        raise ValueError("panels: expected values above 0, which have logarithms")
    colors = {name: COLORS[index % len(COLORS)] for index, name in enumerate(names)}
    size = (PANEL_WIDTH * columns, TITLE + PANEL_HEIGHT * math.ceil(len(panels) / columns) + LEGEND)
    picture = Image.new("RGB", tuple(SAMPLES * side for side in size), "white")
    pen = Pen(ImageDraw.Draw(picture))
    pen.text(size[0] / 2, TITLE / 2, title, "mm")
    for index, panel in enumerate(panels):
        draw_panel(pen, panel, colors, PANEL_WIDTH * (index % columns), TITLE + PANEL_HEIGHT * (index // columns))
    at = 12.0
    for name, color in colors.items():
        pen.line([(at, size[1] - LEGEND / 2), (at + 22, size[1] - LEGEND / 2)], color, 2)
        at = pen.text(at + 28, size[1] - LEGEND / 2, name, "lm") + 20
    with atomic_write(path) as temporary:
        picture.resize(size, Image.Resampling.LANCZOS).save(temporary, format="PNG", optimize=True)


class Pen:
    """Draws at final pixels on the larger picture."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw
        self._font = ImageFont.load_default(SAMPLES * FONT_SIZE)

    def line(self, points: list[Point], color: str, width: float) -> None:
        self._draw.line([(SAMPLES * x, SAMPLES * y) for x, y in points], fill=color, width=round(SAMPLES * width), joint="curve")

    def dot(self, x: float, y: float, color: str) -> None:
        self._draw.ellipse([SAMPLES * (x - 3), SAMPLES * (y - 3), SAMPLES * (x + 3), SAMPLES * (y + 3)], fill=color)

    def text(self, x: float, y: float, text: str, anchor: str) -> float:
        """Returns where the text ends."""
        self._draw.text((SAMPLES * x, SAMPLES * y), text, fill="#222222", font=self._font, anchor=anchor)
        return x + self._draw.textlength(text, font=self._font) / SAMPLES


def draw_panel(pen: Pen, panel: Panel, colors: dict[str, str], left: float, top: float) -> None:
    """Axes, ticks and lines of one panel whose corner is at (left, top)."""
    x_low, x_high = bounds([x for line in panel.lines.values() for x, _ in line])
    y_low, y_high = bounds([y for line in panel.lines.values() for _, y in line])
    x0, x1, y0, y1 = left + LEFT, left + PANEL_WIDTH - RIGHT, top + PANEL_HEIGHT - BOTTOM, top + TOP

    def place(x: float, y: float) -> Point:
        across = math.log(x / x_low) / math.log(x_high / x_low)
        up = math.log(y / y_low) / math.log(y_high / y_low)
        return x0 + across * (x1 - x0), y0 + up * (y1 - y0)

    for tick in ticks(x_low, x_high):
        x, _ = place(tick, y_low)
        pen.line([(x, y0), (x, y1)], "#e4e4e4", 1)
        pen.text(x, y0 + 11, label(tick), "mm")
    for tick in ticks(y_low, y_high):
        _, y = place(x_low, tick)
        pen.line([(x0, y), (x1, y)], "#e4e4e4", 1)
        pen.text(x0 - 6, y, label(tick), "rm")
    pen.line([(x0, y1), (x0, y0), (x1, y0)], "#222222", 1)
    pen.text((x0 + x1) / 2, y0 + 30, panel.x_label, "mm")
    pen.text(x0 + 6, y1 + 6, panel.y_label, "lm")
    for name, line in panel.lines.items():
        places = [place(x, y) for x, y in sorted(line)]
        pen.line(places, colors[name], 2)
        for x, y in places:
            pen.dot(x, y, colors[name])
