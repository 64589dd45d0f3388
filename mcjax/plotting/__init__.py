"""Figures of numpy arrays, without any computation on networks.

Every function takes arrays and returns a matplotlib `Figure`:

- `along_paths`: loss and accuracy along paths.
- `plane`: loss or accuracy on planes in parameter space.
- `correlation`: cross-correlations of units before and after matching.
- `training`, `pam_objective`, `pam_training`: the course of fits.
- `against_parameter`: barriers or other values against a parameter, such as width or steps of training.

A `Line` (loss and accuracy) or a `Series` (values) is a class of curves with one label, colour and line style.

Example::

    import numpy as np
    from mcjax import plotting

    ts = np.linspace(0, 1, 11)
    bump = 4 * ts * (1 - ts)
    line = plotting.Line("unaligned", 0.1 + bump, 0.9 - bump / 2, plotting.UNALIGNED)
    figure = plotting.along_paths(ts, [line], "a straight line")
    print(len(figure.axes))
"""

from mcjax.plotting.against_parameter import ParameterPanel, against_parameter
from mcjax.plotting.correlation import correlation
from mcjax.plotting.paths import Line, along_paths
from mcjax.plotting.plane import Plane, plane
from mcjax.plotting.style import ALIGNED, UNALIGNED, Series
from mcjax.plotting.training import HalfSteps, pam_objective, pam_training, training

__all__ = [
    "ALIGNED",
    "UNALIGNED",
    "HalfSteps",
    "Line",
    "ParameterPanel",
    "Plane",
    "Series",
    "against_parameter",
    "along_paths",
    "correlation",
    "pam_objective",
    "pam_training",
    "plane",
    "training",
]
