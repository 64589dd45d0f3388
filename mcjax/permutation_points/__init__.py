"""Permutation points: critical points with two equal units, between a network and its copy with the two exchanged.

A network and its copy with two hidden units exchanged have the same loss. Brea, Simsek, Illing and Gerstner (2019)
construct a path of low loss between them. They decrease the distance between the parameter vectors of the two units
step by step, and at every distance minimise the loss in all other parameters, until the units are equal. This is the
permutation point, a critical point of the loss. There the two units are exchanged without a change, and the reversed
path leads to the copy. At the point, all other units of the layer can be exchanged at constant loss too, so one point
connects all orders of the layer. There are many more permutation points than global minima.

Paths:

- `permutation_path`: the path for one pair of units, with its barrier and its permutation point (section 4.1).
- `rank_pairs`, `similar_pairs`: pairs of units in the order of their barriers, or of their cosine similarities.
- `merge_units`: the path that merges several pairs, to a permutation point of higher order (section 4.3).
- `PermutationConfig`: steps, tolerances and precision of all of these.

At a point:

- `exchange_units`, `permute_units`: other orders of the units, at constant loss (section 4.2).
- `equal_loss_plane`: the plane of equal loss through the point (Proposition 2).
- `merged_hessian`: the signs of the Hessian's eigenvalues, counted and in closed form (section 4.2).

Exact counts (Proposition 1 and Lemma 1):

- `count`, `equivalent_minima`: the numbers of permutation points, and of copies of a minimum, for given widths.
- `ratio`, `ratio_lower_bound`, `ratio_growth`: the number of points per minimum, in a layer of n units.

`mcjax.hessian.classify_point` classifies a point as a minimum or a saddle, and `mcjax.evaluate_path` measures a path.

Example::

    import jax
    import mcjax
    import optax
    from mcjax import permutation_points

    # A student network 2-4-1 learns the function of a teacher of the same architecture.
    model = mcjax.models.create("mlp", 1, (2,), widths=(4,), activation="tanh")
    key_x, key_teacher, key_student = jax.random.split(jax.random.key(1), 3)
    x = jax.random.normal(key_x, (200, 2))
    y = model.apply(jax.tree.map(lambda leaf: 3 * leaf, model.init(key_teacher)), x)
    task = mcjax.supervised(model, mcjax.data.regression(x, y, x, y))
    training = mcjax.TrainConfig(epochs=300, batch_size=50, optimizer=optax.adam(0.02), weight_decay=0.0)
    thetas = mcjax.train_endpoints(jax.random.split(key_student, 1), task, training).theta
    theta = mcjax.trees.index(thetas, 0)

    # The path that exchanges its two most similar units.
    units = permutation_points.similar_pairs(model, theta, "dense_0")[0]
    config = permutation_points.PermutationConfig(steps=20)
    found = permutation_points.permutation_path(task, theta, "dense_0", units, config)
    print(found, "with gradient norm", found.gradient_norm[-1], "at the point")

    # From the point, every order of the units can be reached at constant loss.
    moves = permutation_points.permute_units(model, found.point, "dense_0", found.units, [3, 2, 1, 0])
    print(len(moves.moves), "moves reverse the units")

    # The number of such points, for each network with one unit less.
    print(permutation_points.count(1, (4,)), "points,", permutation_points.equivalent_minima((4,)), "minima")
"""

from mcjax.permutation_points.config import PermutationConfig
from mcjax.permutation_points.counting import count, equivalent_minima, ratio, ratio_growth, ratio_lower_bound
from mcjax.permutation_points.curvature import MergedHessian, merged_hessian
from mcjax.permutation_points.equal_loss import exchange_units, permute_units
from mcjax.permutation_points.higher_order import MergedUnits, equal_loss_plane, merge_units
from mcjax.permutation_points.pair_ranking import PairBarriers, rank_pairs, similar_pairs
from mcjax.permutation_points.walk import PermutationPath, permutation_path

__all__ = [
    "MergedHessian",
    "MergedUnits",
    "PairBarriers",
    "PermutationConfig",
    "PermutationPath",
    "count",
    "equal_loss_plane",
    "equivalent_minima",
    "exchange_units",
    "merge_units",
    "merged_hessian",
    "permutation_path",
    "permute_units",
    "rank_pairs",
    "ratio",
    "ratio_growth",
    "ratio_lower_bound",
    "similar_pairs",
]
