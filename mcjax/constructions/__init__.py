"""Paths of low loss constructed without training, with a bound on the loss along them.

A network whose loss rises little when half of its hidden units are dropped is *dropout-stable*. Two such networks are
joined by an explicit path (Kuditipudi et al. 2019): units that no layer reads can be rewritten without changing the
function, and the last layer can move because the loss is convex in it. Each straight segment of the path is a `Move` of
one of these kinds, and the loss on the path is at most that of the ends plus the measured epsilon. Deep linear
networks, and wide networks of one hidden ReLU layer, have other constructions (Freeman and Bruna 2017).

- `dropout_stability` searches for the units whose removal costs least, and measures epsilon (Definition 1);
  `drop_units` drops units at random (Algorithm 1), and `dropout_lines` measures how far the loss rises on the way there
  (Lemma 3).
- `dropout_path` joins two dropout-stable networks (Theorem 1). `drop_path` and `halves_path` are its two parts (Lemmas
  1 and 2). `interpolation_path` and `narrow_path` join noise-stable networks (Theorems 2 and 3). Each returns a
  `Construction`: a polyline and its moves.
- `linear_network_path` joins deep linear networks, with or without ridge (Proposition 2.2).
- `wide_path` joins wide networks of one hidden ReLU layer (Theorem 2.4), after `unit_rows` has scaled their units;
  `angle_bound` computes the bound of Proposition 2.3.
- `disconnected_minima` (Theorem 4), `two_neuron_mixture` and `mixture_minima` are pairs of minima that no path of low
  loss joins; one of the last is a poor local minimum.

All but the linear and wide constructions take feed-forward models of any depth, with convolutions (whose channels are
the units) and batch norm. A model whose units cannot be dropped one by one, such as one with residual trunks, is
refused with the name of the group.

Example::

    import jax
    import numpy as np
    import mcjax
    from mcjax.constructions import dropout_path, dropout_stability

    # Is the left or the right half of an image brighter?
    images = np.random.default_rng(0).integers(0, 256, (400, 4, 4), dtype=np.uint8)
    labels = (images[:, :, 2:].mean((1, 2)) > images[:, :, :2].mean((1, 2))).astype(int)
    data = mcjax.data.from_arrays(images[:300], labels[:300], images[300:], labels[300:])
    model = mcjax.models.create("mlp", 2, (4, 4, 1), widths=(8, 8))
    task = mcjax.supervised(model, data)
    config = mcjax.TrainConfig(epochs=5, batch_size=20)
    trained = mcjax.train_endpoints(jax.random.split(jax.random.key(0), 2), task, config).theta
    one, two = (dropout_stability(jax.random.key(i), task, mcjax.trees.index(trained, i)) for i in range(2))
    construction = dropout_path(model, one, two)
    print(construction.shortened())  # lists the segments
    metrics = mcjax.evaluate_path(task, construction.path)
    bound = max(stable.loss + stable.epsilon for stable in (one, two))
    print(f"highest loss {metrics.train_loss.max():.3f}, bound {bound:.3f}")
"""

from mcjax.constructions.chain import Chain, chain_of
from mcjax.constructions.counterexamples import Counterexample, disconnected_minima, mixture_minima, two_neuron_mixture
from mcjax.constructions.dropout import DropoutLines, DropoutStability, drop_units, dropout_lines, dropout_stability
from mcjax.constructions.dropout_paths import drop_path, dropout_path, halves_path, interpolation_path, narrow_path
from mcjax.constructions.linear import linear_network_path
from mcjax.constructions.moves import Construction, Move
from mcjax.constructions.sparse import AngleBound, SparseNetwork, SparseProblem, angle_bound, fit_units
from mcjax.constructions.unit_layers import UnitLayer, unit_layer
from mcjax.constructions.wide import WidePath, sparse_problem, unit_rows, wide_path

__all__ = [
    "AngleBound",
    "Chain",
    "Construction",
    "Counterexample",
    "DropoutLines",
    "DropoutStability",
    "Move",
    "SparseNetwork",
    "SparseProblem",
    "UnitLayer",
    "WidePath",
    "angle_bound",
    "chain_of",
    "disconnected_minima",
    "drop_path",
    "drop_units",
    "dropout_lines",
    "dropout_path",
    "dropout_stability",
    "fit_units",
    "halves_path",
    "interpolation_path",
    "linear_network_path",
    "mixture_minima",
    "narrow_path",
    "sparse_problem",
    "two_neuron_mixture",
    "unit_layer",
    "unit_rows",
    "wide_path",
]
