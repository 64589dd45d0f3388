"""Figures from numpy arrays, which they draw and do not compute.

Every function takes arrays and returns a matplotlib `Figure`. `along_paths` draws loss and accuracy along paths,
`plane` over planes in parameter space, `correlation` the cross-correlation of units before and after matching,
`training`, `alternation` and `alternating_training` the fits, and `dependences` barriers against widths or steps.
A class of curves is a `Line` (loss and accuracy) or a `Series` (values), each with its colour and line style.

Example::

    import numpy as np
    from mcjax import plotting

    ts = np.linspace(0, 1, 11)
    bump = 4 * ts * (1 - ts)
    line = plotting.Line("unaligned", 0.1 + bump, 0.9 - bump / 2, plotting.UNALIGNED)
    figure = plotting.along_paths(ts, [line], "a straight line")
    print(len(figure.axes))
"""

from mcjax.plotting.connectivity import Dependence, dependences
from mcjax.plotting.correlation import correlation
from mcjax.plotting.paths import Line, along_paths
from mcjax.plotting.plane import Plane, plane
from mcjax.plotting.style import ALIGNED, UNALIGNED, Series
from mcjax.plotting.training import HalfSteps, alternating_training, alternation, training

__all__ = [
    "ALIGNED",
    "UNALIGNED",
    "Dependence",
    "HalfSteps",
    "Line",
    "Plane",
    "Series",
    "along_paths",
    "alternating_training",
    "alternation",
    "correlation",
    "dependences",
    "plane",
    "training",
]
