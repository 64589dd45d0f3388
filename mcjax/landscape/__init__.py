"""Measurements of the loss landscape: along paths, on planes, and of merged networks.

Two networks are connected if the loss stays low on a path between them. `evaluate_path` measures a task's loss and
metrics at points of any path, and re-estimates batch statistics at each. `barrier` is the rise of the loss above the
ends, in the definitions of the literature. Further measurements:

- `plane`, `curve_plane`: metrics on a grid of the plane through three networks, or of the plane that contains a curve
  (Garipov et al., 2018).
- `arc_length`, `normalized_length`, `path_spectrum`: the length of a path, and the Fourier transform of its loss.
- `correlation_signature`: correlations between the units of a network on a curve and of its ends (Tatro et al.,
  submitted to ICLR 2020).
- `repair`: rescales the units of a merged network to the statistics of the networks it was merged from (Jordan et al.,
  2022).
- `ensemble_accuracy`: accuracy, loss and calibration of the mean prediction of many networks.
- `noise_stability`: cushions, contraction and smoothness of a network (Kuditipudi et al., 2019).

One compiled program evaluates all points, in chunks that bound the memory; a chunk that does not fit is refused before
it runs. With a mesh (`make_mesh`), points are distributed over its devices. Paths and planes need no more of a task
than its loss; they measure its metrics, and any further `metric(theta, batch) -> scalar`.

Example::

    import jax
    import numpy as np
    import mcjax

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (100, 6, 6, 1), np.uint8), rng.integers(0, 3, 100)
    data = mcjax.data.from_arrays(images[:80], labels[:80], images[80:], labels[80:], 3)
    model = mcjax.models.create("mlp", 3, (6, 6, 1), widths=(8, 8))
    task = mcjax.supervised(model, data)
    theta_1, theta_2 = (model.init(jax.random.key(seed)) for seed in range(2))

    # Loss along the straight line.
    path = mcjax.linear(model.spec).bind(theta_1, theta_2)
    metrics = mcjax.evaluate_path(task, path, ts=11)
    print(metrics.train_loss, mcjax.barrier(metrics))
    print(mcjax.landscape.normalized_length(path))

    # Loss on the plane through the line and a third network.
    theta_3 = model.init(jax.random.key(2))
    grid = mcjax.plane(task, theta_1, theta_2, theta_3, grid=5, splits="test")
    print(grid.test_loss.shape, grid.points)

    # The midpoint, with the unit statistics of both ends.
    ends = mcjax.trees.stack([theta_1, theta_2])
    repaired = mcjax.repair(task, path(0.5), ends)
    print(mcjax.evaluate(task, repaired))
"""

from mcjax.landscape.along import PathMetrics, arc_length, barrier, evaluate_path, normalized_length
from mcjax.landscape.correlation_signature import CorrelationSignature, correlation_signature
from mcjax.landscape.ensembles import Ensemble, ensemble_accuracy
from mcjax.landscape.noise_stability import NoiseStability, noise_stability
from mcjax.landscape.path_spectrum import PathSpectrum, path_spectrum
from mcjax.landscape.plane import Plane, PlaneMetrics, curve_plane, plane, plane_axes
from mcjax.landscape.repair import repair, repaired_layers

__all__ = [
    "CorrelationSignature",
    "Ensemble",
    "NoiseStability",
    "PathMetrics",
    "PathSpectrum",
    "Plane",
    "PlaneMetrics",
    "arc_length",
    "barrier",
    "correlation_signature",
    "curve_plane",
    "ensemble_accuracy",
    "evaluate_path",
    "noise_stability",
    "normalized_length",
    "path_spectrum",
    "plane",
    "plane_axes",
    "repair",
    "repaired_layers",
]
