"""Matching: the permutation that aligns the units of one network with those of another.

The function of a network does not depend on the order of its hidden units, so two trained networks can only be compared
once their units are aligned. A matching of theta_2 onto theta_1 returns the permutation P for which `P theta_2`, in
code `permute(spec, P, theta_2)`, is closest to theta_1. There are three criteria:

- `match_activations`: the correlation of activations. One pass over the examples, then an exact assignment in every
  group. Tatro et al., submitted to ICLR 2020, Neuron Alignment.
- `match_weights`: the inner product of the weights. No data are needed; coordinate descent over the groups, with
  restarts. Ainsworth et al. 2023, "Git Re-Basin", Algorithm 1.
- `match_straight_through`: the loss of the network at the midpoint. Gradient descent through hard permutations.
  "Git Re-Basin", section 3.3. `straight_through_fit` is the fit alone, for a loop of your own.

Each returns a `Match(P, objective, info)`, whose P can be the start of another matching. Endpoints with a leading pair
axis give matches with that axis.

`merge` aligns any number of networks and averages them ("Git Re-Basin", Algorithm 3), and `match_to_reference` matches
many networks to one, by any matching.

Example::

    import jax
    import numpy as np
    import mcjax

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (100, 6, 6, 1), np.uint8), rng.integers(0, 3, 100)
    data = mcjax.data.from_arrays(images[:80], labels[:80], images[80:], labels[80:], 3)
    model = mcjax.models.create("mlp", 3, (6, 6, 1), widths=(8, 8))
    theta_1, theta_2 = (model.init(jax.random.key(seed)) for seed in range(2))

    # Recover a known permutation.
    planted = mcjax.random_permutation(jax.random.key(2), model.spec, theta_1)
    copy = mcjax.permute(model.spec, planted, theta_1)
    match = mcjax.match_weights(jax.random.key(3), model.spec, theta_1, copy)
    found = mcjax.permute(model.spec, match.P, copy)
    print(all((a == b).all() for a, b in zip(jax.tree.leaves(theta_1), jax.tree.leaves(found))))

    # Match two networks by their activations, and improve the match by their weights.
    match = mcjax.match_activations(mcjax.supervised(model, data), theta_1, theta_2)
    print(match.info["before"], match.info["after"])
    match = mcjax.match_weights(jax.random.key(3), model.spec, theta_1, theta_2, P=match.P)
    print(match.objective)
"""

from mcjax.matching.activations import match_activations
from mcjax.matching.match import Match
from mcjax.matching.merging import MergedNetworks, match_to_reference, merge
from mcjax.matching.straight_through import StraightThroughConfig, match_straight_through, straight_through_fit
from mcjax.matching.weights import match_weights

__all__ = [
    "Match",
    "MergedNetworks",
    "StraightThroughConfig",
    "match_activations",
    "match_straight_through",
    "match_to_reference",
    "match_weights",
    "merge",
    "straight_through_fit",
]
