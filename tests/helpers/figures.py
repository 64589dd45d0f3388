"""Figures as the pixels that a reader sees."""

import io

import numpy as np
from PIL import Image


def edges(band):
    """The lowest and the highest point of a band."""
    heights = band.get_paths()[0].vertices[:, 1]
    return heights.min(), heights.max()


def band_edges(values):
    """The edges of the band of some curves: a standard deviation around the mean, of positive ones above zero."""
    mean, std = values.mean(0), values.std(0, ddof=1)
    low = [m - s if m - s > 0 or min(of) <= 0 else min(of) for m, s, of in zip(mean, std, values.T, strict=True)]
    return min(low), (mean + std).max()


# Of a figure that is half as wide as a page.
SMALL = (250, 500)


def drawn(figure, least=(400, 1000)):
    """The figure as grey pixels; fails below `least` (height, width), or if empty, heavy or of unreadable letters."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    image = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("L"))
    assert image.shape[0] > least[0]
    assert image.shape[1] > least[1]
    assert image.std() > 5
    assert len(buffer.getvalue()) < 200_000
    shown = [text for text in figure.findobj(lambda each: hasattr(each, "get_fontsize")) if text.get_text()]
    assert min(text.get_fontsize() for text in shown) >= 8
    return image
