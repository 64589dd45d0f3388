"""Figures of mode connectivity, drawn from numpy arrays.

Every function takes arrays that were computed elsewhere and returns a matplotlib `Figure`; it neither computes what it
draws nor shows or saves it. Values with a leading pair axis are drawn as a mean with a band or bars of one standard
deviation. Each figure is the counterpart of one in a paper, which its docstring names; those without a name are
figures of Neuron Alignment.

    along_paths, plane, spectrum                  loss and accuracy along paths, over planes, and in Fourier modes
    correlation, signature, curve_signatures      cross-correlations of units before and after matching
    training, training_classes                    training histories
    alternation, alternating_training             PAM's half-steps
    dependences                                   barriers against a parameter
    against_threshold, string_stages              strings
    columns, distributions, constructed_paths, gap_against_width                  dropout stability, constructed paths
    mergers, approached, rearranged, eigenvalues, spectral_densities, growth      permutation points

`Line`, `Series`, `Plane` and the other tuples hold the values of one line or panel, with its label, colour and style.

Example::

    import numpy as np
    from mcjax import plotting

    ts = np.linspace(0, 1, 61)
    bump = np.sin(np.pi * ts) * np.array([[0.8], [1.0], [1.3]])  # three pairs
    lines = [
        plotting.Line("unaligned", 0.1 + bump, 0.95 - 0.3 * bump, plotting.UNALIGNED, "--"),
        plotting.Line("aligned", 0.1 + 0.1 * bump, 0.95 - 0.03 * bump, plotting.ALIGNED),
    ]
    figure = plotting.along_paths(ts, lines, "Straight lines between three pairs")
    figure.savefig("paths.png")
"""

from mcjax.plotting.connectivity import Dependence, dependences
from mcjax.plotting.constructions import (
    Against,
    Constructed,
    columns,
    constructed_paths,
    distributions,
    gap_against_width,
)
from mcjax.plotting.correlation import correlation, curve_signatures, signature
from mcjax.plotting.paths import Line, along_paths
from mcjax.plotting.permutation_points import (
    Approached,
    Merger,
    approached,
    eigenvalues,
    growth,
    mergers,
    rearranged,
    spectral_densities,
)
from mcjax.plotting.plane import Plane, plane
from mcjax.plotting.spectrum import spectrum
from mcjax.plotting.strings import PowerLaw, Stage, Thresholds, against_threshold, string_stages
from mcjax.plotting.style import ALIGNED, UNALIGNED, Series
from mcjax.plotting.training import HalfSteps, alternating_training, alternation, training, training_classes

__all__ = [
    "ALIGNED",
    "UNALIGNED",
    "Against",
    "Approached",
    "Constructed",
    "Dependence",
    "HalfSteps",
    "Line",
    "Merger",
    "Plane",
    "PowerLaw",
    "Series",
    "Stage",
    "Thresholds",
    "against_threshold",
    "along_paths",
    "alternating_training",
    "alternation",
    "approached",
    "columns",
    "constructed_paths",
    "correlation",
    "curve_signatures",
    "dependences",
    "distributions",
    "eigenvalues",
    "gap_against_width",
    "growth",
    "mergers",
    "plane",
    "rearranged",
    "signature",
    "spectral_densities",
    "spectrum",
    "string_stages",
    "training",
    "training_classes",
]
