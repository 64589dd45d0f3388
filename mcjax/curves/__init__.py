"""Curves between networks, and fitting them to low loss.

A curve is a pure function `(theta_1, theta_2, theta_c, P, t) -> theta`. It joins theta_1, at t = 0, to `P theta_2`, the
second network with its units permuted by P, at t = 1. The control point `theta_c` is the deviation from the straight
line (Tatro et al., submitted to ICLR 2020, Optimizing Loss Landscape Connectivity via Neuron Alignment, eq. 8):

    r(t) = (1 - t) theta_1 + t P theta_2 + sum_j w_j(t) theta_c[j]

So `theta_c = 0` is the straight line, P = None (the identity) gives the unaligned curve, and the P of a match gives the
aligned curve. Since a curve is a pure function, any loss at any t can be differentiated with respect to `theta_c` or to
a soft P. Curve fitting needs no more than that.

- `linear`, `bezier` and `polygonal_chain` make curves. `curve.zero(theta)` is the initial theta_c.
  `curve.bind(theta_1, theta_2, theta_c, P)` is a path `t -> theta`, and `curve.bind_pairs` several paths at once.
- `fit_curve` trains theta_c at random t (Algorithm 2; Garipov et al. 2018), with any optimiser and any loss.
  `curve_fit` is the fit alone, two pure functions, for a loop of your own.
- `fit_pam` learns P together with theta_c, by proximal alternating minimisation (eq. 5 and 6). `exchanges` tells
  whether a P is locally optimal.
- `Polyline` joins any networks, its knots, by straight segments.

Example::

    from dataclasses import replace

    import jax
    import numpy as np
    import optax
    import mcjax

    x = np.random.default_rng(0).normal(size=(200, 2))
    y = np.sin(2 * x[:, :1]) * x[:, 1:]
    data = mcjax.data.regression(x, y, x, y)
    model = mcjax.models.create("mlp", 1, (2,), widths=(8,), activation="tanh")
    task = mcjax.supervised(model, data)
    key, training = jax.random.key(0), mcjax.TrainConfig(epochs=100, batch_size=50, weight_decay=0.0)
    networks = mcjax.train_endpoints(jax.random.split(key), task, training).theta
    theta_1, theta_2 = (jax.tree.map(lambda leaf: leaf[i], networks) for i in range(2))
    P = mcjax.match_activations(task, theta_1, theta_2).P

    # Your own loop and optimiser.
    curve = mcjax.bezier(model.spec)
    fit = mcjax.curves.curve_fit(task, curve, optax.adam(1e-2))
    state, step = fit.init(theta_1, theta_2, P), jax.jit(fit.step)
    for each in jax.random.split(key, 400):
        state, metrics = step(state, task.train, each)
    own = mcjax.curves.curve_path(curve, state)

    # The same with the library's loop, and with a learned P.
    config = mcjax.FitConfig(epochs=100, batch_size=50, weight_decay=0.0)
    fit = mcjax.fit_curve(key, task, curve, theta_1, theta_2, P, config)
    half_step = mcjax.curves.PermutationFitConfig(epochs=10)
    config = mcjax.PamConfig(curve=replace(config, epochs=50), permutation=half_step, iterations=2)
    pam = mcjax.fit_pam(key, task, curve, theta_1, theta_2, config=config)

    line = mcjax.linear(model.spec).bind(theta_1, theta_2)
    for name, path in {"line": line, "own": own, "fit": fit.path, "pam": pam.path}.items():
        print(name, mcjax.evaluate_path(task, path, ts=21).train_loss.max())
"""

from mcjax.curves.config import FitConfig, PamConfig, PermutationFitConfig
from mcjax.curves.curve import Curve, Path, bezier, linear, polygonal_chain
from mcjax.curves.exchanges import Exchanges, exchanges
from mcjax.curves.fit import CurveFit, curve_fit, curve_path, fit_curve
from mcjax.curves.pam import PamFit, fit_pam
from mcjax.curves.pam_step import permutation_fit
from mcjax.curves.polyline import Polyline
from mcjax.curves.stationarity import Slopes

__all__ = [
    "Curve",
    "CurveFit",
    "Exchanges",
    "FitConfig",
    "PamConfig",
    "PamFit",
    "Path",
    "PermutationFitConfig",
    "Polyline",
    "Slopes",
    "bezier",
    "curve_fit",
    "curve_path",
    "exchanges",
    "fit_curve",
    "fit_pam",
    "linear",
    "permutation_fit",
    "polygonal_chain",
]
