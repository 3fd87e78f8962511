"""Whether labels of a picture overlap."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")


def assert_no_overlap(panel: Any) -> None:
    """On axes of the size that a report gives a panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    drawing = Figure(figsize=(4.6, 3.1), layout="constrained")
    canvas = FigureCanvasAgg(drawing)
    axes = drawing.subplots()
    panel.draw(axes)
    canvas.draw()
    ends = [text for text in axes.texts if text.get_text() and text.get_position()[0] == 1.03]
    boxes = sorted((Text.get_window_extent(text) for text in ends), key=lambda box: box.y0)
    for below, above in pairwise(boxes):
        assert above.y0 > below.y1 - 2, panel.title  # a box is 2 pixels higher than its letters
    for box in boxes:
        assert box.x1 <= drawing.bbox.x1 + 1
