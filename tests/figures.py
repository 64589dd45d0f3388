"""Figures as the pixels that a reader sees."""

import io

import numpy as np
from PIL import Image


def drawn(figure):
    """The figure as grey pixels; fails if it is small, empty, heavy or has letters that print unreadably."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    image = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("L"))
    assert image.shape[0] > 250
    assert image.shape[1] > 500
    assert image.std() > 5
    assert len(buffer.getvalue()) < 200_000
    shown = [text for text in figure.findobj(lambda each: hasattr(each, "get_fontsize")) if text.get_text()]
    assert min(text.get_fontsize() for text in shown) >= 8
    return image
