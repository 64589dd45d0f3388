"""Curvature of a loss: products with its Hessian, eigenvalues, spectral density, and kinds of critical points.

A loss is any pure function of one network to a scalar; `mcjax.full_batch_loss` makes that of a task on all of its
examples. Networks are pytrees, and derivatives are taken with respect to `mcjax.trees.trained(theta)`, their parameters
without counters, keys and other leaves that are not floating-point.

The Hessian H of a network with n parameters has n^2 entries, but its product with a vector costs about two gradients
(`hessian_product`; Pearlmutter, 1994), and everything here is built on such products:

- `dense_hessian` forms the matrix of small networks, up to a few thousand parameters.
- `extreme_eigenpairs` finds the ends of the spectrum by the Lanczos iteration.
- `spectral_density` estimates the density of all eigenvalues by stochastic Lanczos quadrature (Ghorbani, Krishnan and
  Xiao, 2019), and `hessian_trace` their sum by random signs (Hutchinson, 1989).

With `curvature="gauss_newton"`, each uses the Gauss-Newton matrix J^T H_out J, the positive semidefinite part of H,
instead. `lanczos` and `curvature_operator` are the building blocks.

`classify_point` classifies a point as a minimum, maximum or saddle by the gradient and the eigenvalues;
`is_direction_of_improvement` and `convergence_constants` test conditions under which gradient descent reaches a global
minimum (Zhang, 2024).

Example::

    import jax
    import numpy as np
    import mcjax

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 4, 4, 1), np.uint8)
    labels = (images.mean((1, 2, 3)) > 127).astype(np.int32)
    data = mcjax.data.from_arrays(images, labels, images, labels)
    model = mcjax.models.create("mlp", data.num_classes, data.image_shape, widths=(8,))
    key = jax.random.key(0)
    theta = model.init(key)

    loss = mcjax.full_batch_loss(mcjax.supervised(model, data))
    ends = mcjax.hessian.extreme_eigenpairs(key, loss, theta, count=2)
    print("largest and smallest eigenvalues:", ends.values)
    trace = mcjax.hessian.hessian_trace(key, loss, theta)
    print("trace:", trace.estimate, "+-", trace.standard_error)
    point = mcjax.hessian.classify_point(loss, theta)
    print(point.kind, "with gradient norm", point.gradient_norm)
"""

from mcjax.hessian.convergence import ConvergenceConstants, convergence_constants
from mcjax.hessian.critical_points import CriticalPoint, classify_point, is_direction_of_improvement
from mcjax.hessian.estimators import SpectralDensity, TraceEstimate, hessian_trace, spectral_density
from mcjax.hessian.full_batch import full_batch_loss
from mcjax.hessian.lanczos import Eigenpairs, Tridiagonal, extreme_eigenpairs, lanczos
from mcjax.hessian.products import Operator, curvature_operator, dense_hessian, gauss_newton_product, hessian_product

__all__ = [
    "ConvergenceConstants",
    "CriticalPoint",
    "Eigenpairs",
    "Operator",
    "SpectralDensity",
    "TraceEstimate",
    "Tridiagonal",
    "classify_point",
    "convergence_constants",
    "curvature_operator",
    "dense_hessian",
    "extreme_eigenpairs",
    "full_batch_loss",
    "gauss_newton_product",
    "hessian_product",
    "hessian_trace",
    "is_direction_of_improvement",
    "lanczos",
    "spectral_density",
]
