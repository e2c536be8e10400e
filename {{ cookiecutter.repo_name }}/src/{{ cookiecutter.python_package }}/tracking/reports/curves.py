"""A curve in a terminal, of Braille's dots: two of them wide and four high in one character."""

from __future__ import annotations

import math
from collections.abc import Sequence

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def curve(points: Sequence[tuple[int, float]], width: int = 60, height: int = 8) -> list[str]:
    """Lines with the curve of (step, value), with the limits of both.

    Points that are NaN or infinite are left out.
    """
    points = [(step, value) for step, value in points if math.isfinite(value)]
    if not points:
        return ["(no finite values)"]
    steps, values = [step for step, _ in points], [value for _, value in points]
    left, right, low, high = min(steps), max(steps), min(values), max(values)
    cells = [[0] * width for _ in range(height)]
    for step, value in points:
        x = round((step - left) / ((right - left) or 1) * (2 * width - 1))
        # Halves: the largest numbers' difference is infinite.
        y = round((high / 2 - value / 2) / ((high / 2 - low / 2) or 1) * (4 * height - 1))
        cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    rows = ["".join(chr(0x2800 + cell) if cell else " " for cell in row) for row in cells]
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
    margin = max(map(len, labels))
    lines = [f"{label:>{margin}} │{row}".rstrip() for label, row in zip(labels, rows, strict=True)]
    first, last = str(left), str(right)
    axis = f"{first}{last:>{max(width - len(first), 1)}}"
    return [*lines, f"{'':>{margin}} └{'─' * width}", f"{'':>{margin}}  {axis}"]
