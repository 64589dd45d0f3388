"""Faults that the tests must find, one a row, for `python -m tests.mutants`: semantic ones, in every folder."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault: in `file`, `text`, which is there exactly once, becomes `replacement`.

    tests: files below tests/ that should find it; those that exist are run (none: the mirror of `file`).
    """

    file: str
    text: str
    replacement: str
    tests: tuple[str, ...] = ()


HALF_STEPS = ("curves/test_pam_half_steps.py", "curves/test_pam.py")

MUTANTS = (
    # Gather and scatter, dynamic slices and updates: what is named by an index, the index, and its components.
    Mutant("mcjax/symmetry/infer/contractions.py", "op.pin(1, len(index_axes))", "pass"),
    Mutant(
        "mcjax/symmetry/infer/contractions.py",
        "    op.pin(operand, position)\n    return op.new_pinned(size)",
        "    return op.new_pinned(size)",
    ),
    Mutant("mcjax/symmetry/infer/contractions.py", "op.pin(1, j)", "pass"),
    Mutant("mcjax/symmetry/infer/contractions.py", "op.pin(2, update)", "pass"),
    Mutant(
        "mcjax/symmetry/infer/contractions.py",
        "        op.pin(0, i)\n        if update is not None:",
        "        if update is not None:",
    ),
    Mutant(
        "mcjax/symmetry/infer/contractions.py",
        "            op.pin(0, i)\n            op.pin(1, i)\n",
        "            op.pin(0, i)\n",
    ),
    Mutant(
        "mcjax/symmetry/infer/contractions.py", "op.unify((op.axes[0][i], op.axes[1][batching[i]]))", "op.axes[0][i]"
    ),
    # Writes to a mutable array taken for dead code.
    Mutant(
        "mcjax/symmetry/infer/program.py",
        "if refers or needed.intersection(equation.outputs)",
        "if needed.intersection(equation.outputs)",
        ("symmetry/infer/test_propagation.py", "symmetry/infer/test_program.py"),
    ),
    # Diagonals, the largest values without their places, and windows.
    Mutant("mcjax/symmetry/infer/elementwise.py", "or i == j or", "or"),
    Mutant("mcjax/symmetry/infer/elementwise.py", "if not op.used[1]:", "if True:"),
    Mutant(
        "mcjax/symmetry/infer/propagation.py",
        'np.dtype(params["dtype"]).itemsize >= 4',
        "True",
        ("symmetry/infer/test_elementwise.py",),
    ),
    Mutant(
        "mcjax/symmetry/infer/propagation.py",
        "target if after[target] == before[axis] else None",
        "target",
        ("symmetry/infer/test_elementwise.py",),
    ),
    Mutant(
        "mcjax/symmetry/infer/propagation.py",
        "bits is not None and not bits.any()",
        "bits is not None",
        ("symmetry/infer/test_elementwise.py",),
    ),
    Mutant(
        "mcjax/symmetry/infer/propagation.py", "(np.roll(range(n), 1), np.r_[1, 0, 2:n])", "(np.roll(range(n), 1),)"
    ),
    Mutant("mcjax/symmetry/infer/contractions.py", "op.unify(op.axes[k][i] for k in arrays)", "op.axes[0][i]"),
    Mutant("mcjax/symmetry/infer/contractions.py", "op.pin(k, i)", "op.pin(0, i)"),
    # Constants compared as numbers, so that 0.0 is -0.0.
    Mutant(
        "mcjax/symmetry/infer/propagation.py",
        "np.ascontiguousarray(value)[..., None].view(np.uint8)",
        "np.asarray(value)[..., None]",
    ),
    Mutant(
        "mcjax/symmetry/birkhoff.py",
        "return weights / weights.sum(), np.array([p for",
        "return weights, np.array([p for",
    ),
    Mutant(
        "mcjax/symmetry/permutation.py",
        "jnp.take_along_axis(jnp.asarray(Q[group]), jnp.asarray(p), axis=-1)",
        "jnp.take_along_axis(jnp.asarray(p), jnp.asarray(Q[group]), axis=-1)",
    ),
    Mutant(
        "mcjax/symmetry/infer/layout.py",
        'return [pin_positions(op, 0, op.equation.params["dimensions"])]',
        "return list(op.axes)",
    ),
    Mutant("mcjax/symmetry/infer/elementwise.py", "range(len(op.axes) if len(op.axes) > 1 else 0)", "range(0)"),
    Mutant(
        "mcjax/symmetry/infer/propagation.py",
        "kept = [found.unify(before, after) for before, after in zip(carry, outputs[:carries], strict=True)]",
        "kept = list(outputs[:carries])",
    ),
    Mutant(
        "mcjax/symmetry/infer/factors.py",
        "self._reason[root] = reason or self._reason[other]",
        "self._reason[root] = reason",
    ),
    Mutant("mcjax/symmetry/infer/activations.py", "at.T.reshape(-1)", "at.reshape(-1)"),
    Mutant(
        "mcjax/models/layers.py",
        "jnp.maximum(jnp.square(exact).mean(axes) - jnp.square(mean), 0)",
        "jnp.square(exact).mean(axes) - jnp.square(mean)",
    ),
    Mutant(
        "mcjax/runtime/convolution.py",
        "(last - low, size + low - k)",
        "(last - low, size + last - k)",
    ),
    # The phases of a dilated convolution in the wrong place.
    Mutant("mcjax/runtime/convolution.py", "first = [(low - at) % stride", "first = [(low + at) % stride"),
    Mutant(
        "mcjax/runtime/convolution.py",
        "return list(map(read, positions(*map(range, count))))",
        "return [read(at[::-1]) for at in positions(*map(range, count[::-1]))]",
    ),
    # Images of no size, which have other forms for JAX alone.
    Mutant("mcjax/runtime/convolution.py", "and 0 not in sizes", ""),
    # Convolutions inside loops and branches are not seen.
    Mutant(
        "mcjax/runtime/mapping.py",
        "or any(map(has_convolutions, _programs_in(list(equation.params.values()))))",
        "",
    ),
    # Steps of a resumed epoch take the batches of the beginning of the pass.
    Mutant("mcjax/data/stream.py", "at = min(skip, whole)", "at = 0"),
    # Every epoch begins with the first batch of a block.
    Mutant("mcjax/data/stream.py", "yield Cut(block, at, taken, step)", "yield Cut(block, 0, taken, step)"),
    # A source that ends early is measured on what there is.
    Mutant("mcjax/training/totals.py", "processes.least(stream.least) if n is None", "0 if n is None"),
    # Patches that do not overlap are not turned around.
    Mutant("mcjax/runtime/convolution.py", "x, kernel[::-1, ::-1])", "x, kernel)"),
    # The lowering rules of no GPU in particular, for a mesh of GPUs.
    Mutant(
        "mcjax/runtime/target.py",
        "if _given.value in get_args(Platform) else None",
        "if _given.value else None",
    ),
    Mutant(
        "mcjax/runtime/compiling.py", "_jitted(self._function, static, target())", '_jitted(self._function, static, "")'
    ),
    Mutant(
        "mcjax/models/lstm.py",
        "nn.sigmoid(gates[:, 1]) * cell + nn.sigmoid(gates[:, 0])",
        "nn.sigmoid(gates[:, 0]) * cell + nn.sigmoid(gates[:, 1])",
    ),
    Mutant(
        "mcjax/models/flax_functions.py",
        "prepare(module)",
        "pass",
        ("models/test_estimation.py", "models/test_flax_functions.py"),
    ),
    Mutant(
        "mcjax/models/convnets.py",
        "nn.Dropout(self.channel_dropout[i], (1, 2), deterministic=not train)",
        "nn.Dropout(self.channel_dropout[i], deterministic=not train)",
    ),
    Mutant(
        "mcjax/data/augment.py", "-augmentation.crop, augmentation.crop + 1)", "-augmentation.crop, augmentation.crop)"
    ),
    Mutant("mcjax/data/datasets.py", "min(4, min(self.image_shape[:2]) // 8)", "min(4, self.image_shape[0] // 8)"),
    Mutant(
        "mcjax/data/splits.py",
        "share if 2 * number < data.num_classes else",
        "share if 2 * number < data.num_classes - 1 else",
    ),
    Mutant("mcjax/data/text.py", "key=lambda word: (-counts[word], word))", "key=lambda word: -counts[word])"),
    # The passes of one epoch all in the same order.
    Mutant(
        "mcjax/training/loop.py",
        "keys = jax.random.split(order_key, passes)",
        "keys = jnp.broadcast_to(order_key, (passes,))",
    ),
    # The step at which a loss was first not finite, and its t.
    Mutant(
        "mcjax/runs/recorder.py",
        "int(step[wrong[0]]) + 1",
        "int(step[wrong[0]])",
        ("training/test_loop.py", "runs/test_recorder.py"),
    ),
    Mutant("mcjax/training/loop.py", '"bad_t": ts[first]', '"bad_t": ts[0]'),
    Mutant("mcjax/training/fit.py", "trained), state.fixed, t)", "trained), state.fixed, None)"),
    Mutant("mcjax/training/fit.py", "jax.random.split(loss_key, self.points)", "jax.random.split(t_key, self.points)"),
    # Variables that are no network decayed in its place.
    Mutant("mcjax/training/fit.py", "trees.dot(params, params)", "trees.dot(trained, trained)"),
    Mutant("mcjax/training/fit.py", "value + self.penalty(trained", "value - self.penalty(trained"),
    Mutant("mcjax/training/fit.py", "_running(self.statistics_momentum, state", "_running(0.9, state"),
    Mutant("mcjax/training/fit.py", "self.retract(trained, updates,", "self.retract(trained, gradient,"),
    Mutant(
        "mcjax/training/fit.py",
        "trees.with_params(theta, trees.cast(params, self.compute_dtype))",
        "trees.cast(theta, self.compute_dtype)",
    ),
    Mutant("mcjax/training/loss.py", "reversed(program.jaxpr.eqns)", "program.jaxpr.eqns"),
    Mutant("mcjax/training/task.py", "train.keys() != test.keys()", "False"),
    Mutant("mcjax/training/task.py", "validation=None, name=", "name="),
    Mutant("mcjax/training/supervised.py", "outputs.shape[-1] > 1", "outputs.shape[-1] > 0"),
    Mutant("mcjax/training/supervised.py", "x = trees.cast(x, dtype)", "pass"),
    Mutant("mcjax/training/endpoints.py", "statistics_momentum=config.statistics_momentum", "statistics_momentum=0.9"),
    Mutant(
        "mcjax/training/criterion.py",
        "estimate_statistics(task, theta, self.calibration_examples,",
        "estimate_statistics(task, theta, self.examples,",
    ),
    Mutant("mcjax/training/batches.py", "value) * n, values)", "value), values)"),
    Mutant("mcjax/training/batches.py", "part * n // count, (part + 1) * n // count", "part, part + n // count"),
    # Examples at equal distances alias with classes that come in turn.
    Mutant("mcjax/training/batches.py", "first + (part * 0.6180339887498949 % 1 * (after - first))", "(1.0 * first)"),
    Mutant("mcjax/hessian/newton.py", "curved + part * along, new_residual", "curved + along, new_residual"),
    Mutant(
        "mcjax/training/criterion.py",
        "np.full(size - len(self.running), len(self.values))",
        "np.full(size - len(self.running), 0)",
    ),
    Mutant(
        "mcjax/runs/stage.py",
        "first if saved is None else saved.step",
        "first if saved is None else saved.step + 1",
        ("runs/test_stage.py", "runs/test_recorder.py", "training/test_loop.py", "commands/test_train.py"),
    ),
    Mutant(
        "mcjax/training/spawning.py",
        "jax.random.fold_in(jax.random.fold_in(base, epoch), child)",
        "jax.random.fold_in(base, child)",
    ),
    Mutant(
        "mcjax/training/batches.py",
        "p.samples * q.samples / samples * jnp.square(delta)",
        "q.samples * jnp.square(delta)",
        ("training/test_moments.py",),
    ),
    Mutant(
        "mcjax/training/batch_statistics.py",
        "statistics[variances[name]] if name in variances else jnp.zeros_like(value)",
        "jnp.zeros_like(value)",
    ),
    Mutant(
        "mcjax/models/estimation.py",
        'product(("mean", "average", "avg"), ("var", "variance"))',
        '[("mean", "var")]',
        ("training/test_batch_statistics.py",),
    ),
    Mutant("mcjax/training/batch_statistics.py", "- {*variances.values()}", "- {*statistics}"),
    Mutant("mcjax/models/estimation.py", 'object.__setattr__(context.module, "use_fast_variance", False)', "pass"),
    Mutant("mcjax/models/estimation.py", "node.use_fast_variance = False", "pass"),
    Mutant("mcjax/models/layers.py", "if estimating():", "if False:", ("models/test_estimation.py",)),
    Mutant("mcjax/training/batch_statistics.py", "with estimation():", "if True:"),
    Mutant(
        "mcjax/training/config.py",
        "optax.chain(optax.clip_by_global_norm(self.clip), sgd)",
        "optax.chain(sgd, optax.clip_by_global_norm(self.clip))",
    ),
    # The permutations of an epoch written down a step late, and a step early.
    Mutant(
        "mcjax/matching/straight_through.py",
        "number = (state.step - 1) // length.steps_per_epoch",
        "number = (state.step - 2) // length.steps_per_epoch",
    ),
    Mutant(
        "mcjax/matching/straight_through.py",
        "number = (state.step - 1) // length.steps_per_epoch",
        "number = state.step // length.steps_per_epoch",
    ),
    Mutant("mcjax/matching/activations.py", "nearest_permutation(value + tie[None])", "nearest_permutation(value)"),
    Mutant(
        "mcjax/matching/merging.py",
        "_mean([theta for j, theta in enumerate(moved) if j != i])",
        "_mean(moved)",
    ),
    Mutant(
        "mcjax/matching/products.py",
        "(jnp.sort(jnp.moveaxis(rows, at, 0).reshape(rows.shape[at], -1)) for",
        "(jnp.moveaxis(rows, at, 0).reshape(rows.shape[at], -1) for",
        ("matching/test_products.py", "matching/test_weights.py"),
    ),
    Mutant(
        "mcjax/matching/coordinate_descent.py",
        "if not quadratic or objective(moved) > objective(self.P)",
        "if quadratic or objective(moved) > objective(self.P)",
        ("matching/test_coordinate_descent.py", "matching/test_weights.py"),
    ),
    # The curve's proximal term, gone from what its half-step descends.
    Mutant(
        "mcjax/training/fit.py",
        "return trees.dot(change, change) / (2 * self.nu)",
        "return 0 * trees.dot(change, change)",
        ("curves/test_fit.py", *HALF_STEPS),
    ),
    Mutant("mcjax/curves/fit.py", "points=points_per_step", "points=1"),
    Mutant(
        "mcjax/curves/objective.py",
        "training_objective(task.loss, theta, fixed, batch_size, weight_decay)",
        "training_objective(task.loss, theta, fixed, batch_size, 0.0)",
    ),
    Mutant("mcjax/curves/pam.py", "config.permutation.rate_factor(k), rate", "1.0, rate", HALF_STEPS),
    # Equal candidates that are taken for others.
    Mutant(
        "mcjax/curves/objective.py", "np.concatenate(values, 1), which, 1)", "np.concatenate(values, 1), which * 0, 1)"
    ),
    # Exchanges that are no exchanges.
    Mutant("mcjax/curves/exchanges.py", "= later, i", "= i, later"),
    # The cone without the constraint where the permutation's matrix is zero.
    Mutant(
        "mcjax/curves/stationarity.py", "jnp.maximum(sums + correction, 0))", "sums)", ("curves/test_stationarity.py",)
    ),
    # Points on the boundary that may move outward.
    Mutant("mcjax/curves/norm_bound.py", "outward, 0) * normal", "0, 0) * normal", ("curves/test_norm_bound.py",)),
    # The relaxed objective of the first rate, whichever was chosen.
    Mutant("mcjax/curves/pam_half_steps.py", "values[each, count * rate]", "values[each, 0]", HALF_STEPS),
    # Cycles in the order of their names.
    Mutant("mcjax/curves/pam_candidates.py", "np.argsort(values[i, 1 : 1 + len(cycles[i])])", "range(len(cycles[i]))"),
    # Attacks that leave the ball.
    Mutant("mcjax/data/attacks.py", "jnp.maximum(x - radius, -mean / std)", "-mean / std"),
    # Momentum kept by a half-step that is refused.
    Mutant(
        "mcjax/curves/pam_half_steps.py", "jax.tree.map(restarted, new.optimizer, fresh)", "new.optimizer", HALF_STEPS
    ),
    # Lookahead without proximal terms.
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "with_old, with_new = after.reshape(2, -1)",
        "with_old, with_new = costs.reshape(2, -1)",
        HALF_STEPS,
    ),
    # The best candidate without its proximal term.
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "costs = _finite(values + _moved(candidates, state.P) / nu_P)",
        "costs = _finite(values)",
        HALF_STEPS,
    ),
    # The rate of permutations by the gradient, sums of its rows and columns included.
    Mutant("mcjax/curves/pam_step.py", "jnp.square(tangent_part(G)).mean", "jnp.square(G).mean", HALF_STEPS),
    # Segments of a concatenation that begin where they end.
    Mutant(
        "mcjax/models/googlenet.py",
        "stop=stop) for i",
        "stop=stop + 1) for i",
        ("models/test_registry.py",),
    ),
    # A bound without what the ReLU bends, or without the curvature of the product.
    Mutant("experiments/alignment_bound.py", "signs = signs + np.linalg.norm(bent, axis=1)", "signs = signs + 0"),
    Mutant("experiments/alignment_bound.py", "factor * signs + moved", "factor * signs"),
    # Batch statistics that stay where they are.
    Mutant(
        "mcjax/permutation_points/equal_loss.py",
        "layer.with_statistics(new, unit, last, (source,), (factor,))",
        "new",
    ),
    # Biases, norms and statistics that are not cleared.
    Mutant(
        "mcjax/constructions/unit_edits.py",
        "units[str(layer.group)], 0)",
        "units[str(layer.group)], 0) if place.name == layer.kernel else new[place.name]",
    ),
    Mutant("mcjax/strings/scan.py", "np.maximum(np.maximum(steep[:-2], steep[1:-1]), steep[2:])", "steep[1:-1]"),
    Mutant(
        "mcjax/strings/growth.py",
        "jax.random.fold_in(jax.random.fold_in(string.key, string.depth), i)",
        "jax.random.fold_in(string.key, i)",
    ),
    Mutant("mcjax/strings/train.py", "for i in (knot - 1, knot) if", "for i in (knot,) if"),
    # A wall between points, slopes that are not finite, and a string that leaves its level or is pulled straight.
    Mutant("mcjax/strings/certify.py", "return (values[1:] + values[:-1]) / 2 + rate * width / 2", "return values[1:]"),
    Mutant("mcjax/strings/certify.py", "lipschitz * Polyline(trees.stack_on_host([*pair])).length", "lipschitz"),
    Mutant(
        "mcjax/strings/relax.py", "low = (new <= jnp.maximum(level, values)).all(1)", "low = (new < jnp.inf).all(1)"
    ),
    Mutant("mcjax/strings/relax.py", "moves = _nearest(way, ", "moves = 0 * _nearest(way, "),
    Mutant("experiments/string_sampling/laws.py", "np.where(above, mills, -u) @ z", "np.where(above, 0, -u) @ z"),
    Mutant("experiments/string_sampling/laws.py", "[(each[what], True) for each", "[(each[what], False) for each"),
    Mutant(
        "mcjax/strings/record.py",
        "(string.threshold, jax.random.key_data(string.key), string.knots[0]",
        "(string.threshold, string.knots[0]",
    ),
    Mutant("mcjax/curves/polyline.py", "jax.tree.leaves(trees.trained(self.knots))", "jax.tree.leaves(self.knots)"),
    Mutant(
        "mcjax/constructions/linear_phases.py",
        "here[k] - 2 * np.outer(here[k] @ unreached, unreached)",
        "here[k] - np.outer(here[k] @ unreached, unreached)",
        ("constructions/test_linear.py",),
    ),
    # No upper bracket; the factor of the search, not the best one; one draw more than a quarter.
    Mutant(
        "mcjax/constructions/subset_search.py",
        "while values.argmin() == len(values) - 1 and factors[-1] < LARGEST",
        "while False",
        ("constructions/test_dropout.py",),
    ),
    Mutant(
        "mcjax/constructions/subset_search.py",
        "return tried[int(values.argmin())]",
        "return tried[0]",
        ("constructions/test_dropout.py",),
    ),
    Mutant("mcjax/constructions/dropout.py", "len(self.rises) - 1e-9) - 1, 0)", "len(self.rises) - 1e-9), 0)"),
    Mutant(
        "mcjax/constructions/linear_phases.py",
        "np.where(values <= zero, 0, values)",
        "values",
        ("constructions/test_linear.py",),
    ),
    Mutant("mcjax/constructions/wide.py", "np.sin(angle / 2) / 2 * spread", "np.sin(angle / 2) * spread"),
    Mutant("mcjax/constructions/counterexamples.py", "np.minimum(*wrong)", "np.maximum(*wrong)"),
    # Pooling is part of phi, and t goes over all of [0, 1].
    Mutant(
        "mcjax/landscape/noise_stability.py", "zip(x[:-1], inputs[1:], strict=True)", "zip(x[:-1], x, strict=False)"
    ),
    Mutant(
        "mcjax/landscape/interlayer_maps.py",
        "factors = {group: t + (1 - t) * factor for group, factor in mask.items()}",
        "factors = {group: 1 + 0 * t * factor for group, factor in mask.items()}",
        ("landscape/test_noise_stability.py",),
    ),
    Mutant(
        "mcjax/constructions/dropout.py", "math.floor((1 - shares[g]) * n + 1e-9)", "math.floor((1 - shares[g]) * n)"
    ),
    Mutant(
        "mcjax/constructions/chain.py",
        "jnp.tile(jnp.repeat(jnp.asarray(factor), axis.inner), axis.outer)",
        "jnp.repeat(jnp.tile(jnp.asarray(factor), axis.inner), axis.outer)",
    ),
    Mutant("mcjax/permutation_points/higher_order.py", "removed[second] = True", "pass"),
    Mutant("mcjax/permutation_points/curvature.py", "len(a) - full + kernel.zeros", "len(a) + kernel.zeros"),
    Mutant("mcjax/permutation_points/curvature.py", "total + copies * each", "total + each"),
    Mutant(
        "mcjax/permutation_points/walk.py",
        "float(self.heights.max() - self.loss[0])",
        "float(self.loss.max() - self.loss[0])",
    ),
    Mutant("mcjax/curves/objective.py", "jnp.where(ball.holds(theta_c, ends), value, jnp.inf)", "value"),
    Mutant(
        "mcjax/curves/pam_candidates.py",
        "rng.choice(len(weights), samples, p=weights)",
        "rng.choice(len(weights), samples)",
    ),
    # Whatever rounding makes of a constant unit is scaled up.
    Mutant("mcjax/training/batches.py", "1e-5 * jnp.abs(self.mean)", "0", ("training/test_moments.py",)),
    Mutant(
        "mcjax/landscape/along.py", "np.trapezoid(values, at, axis=-1)", "np.trapezoid(values, self._share(), axis=-1)"
    ),
    Mutant("mcjax/hessian/products.py", "(summed / split.size + decay * v)", "(summed / split.size)"),
    Mutant("mcjax/hessian/products.py", "trees.widened(leaves)), split.batches)", "leaves), split.batches)"),
    Mutant("mcjax/hessian/full_batch.py", "wide = trees.widened(theta)", "wide = theta", ("hessian/test_products.py",)),
    # What a task cannot score.
    Mutant("mcjax/data/datasets.py", "if low < 0 or high >= num_classes:", "if low < 0:"),
    Mutant("mcjax/data/datasets.py", "np.where(constant, 1, np.sqrt(variance))", "np.sqrt(variance)"),
    Mutant("mcjax/data/datasets.py", "if trees.not_finite(array):", "if False:"),
    Mutant("mcjax/training/supervised.py", "jnp.isnan(outputs).any(-1)", "False"),
    Mutant("mcjax/training/supervised.py", 'for split in ("train", "test", "validation"):', 'for split in ("train",):'),
    Mutant(
        "mcjax/landscape/ensembles.py", "right(log_mean, labels)", "(log_mean.argmax(-1) == labels).astype(jnp.float32)"
    ),
    # Networks of any scale, and complex ones.
    Mutant("mcjax/matching/weights.py", "if abs(exponent) < 20:", "if True:"),
    Mutant("mcjax/matching/weights.py", "best.objective * size", "best.objective"),
    Mutant("mcjax/matching/products.py", "jnp.conj(rows_1)", "rows_1", ("matching/test_weights.py",)),
    Mutant("mcjax/matching/activations.py", "not matrix.any((-2, -1)).all()", "False"),
    Mutant("mcjax/hessian/estimators.py", "values.std(ddof=1) / draws**0.5", "values.std() / draws**0.5"),
    Mutant("mcjax/landscape/noise_stability.py", "each[-(-len(each) // 2) - 1]", "each[len(each) // 2]"),
    Mutant("mcjax/landscape/plane.py", "value.reshape(len(y), len(x))", "value.reshape(len(x), len(y))"),
    Mutant("mcjax/landscape/path_spectrum.py", "period[..., 0] = (values[..., 0] + values[..., -1]) / 2", "pass"),
    Mutant(
        "mcjax/landscape/correlation_signature.py", "before[0], before[1], after[0])", "before[0], before[1], after[1])"
    ),
    Mutant(
        "mcjax/plotting/style.py",
        "values.std(0, ddof=1)",
        "values.std(0)",
        ("plotting/test_paths.py", "plotting/test_training.py"),
    ),
    Mutant("mcjax/plotting/training.py", "axes.plot(steps + 1, proposed[", "axes.plot(steps, proposed["),
    Mutant(
        "mcjax/commands/pam.py",
        "-(-training.epochs // self.iterations)",
        "max(1, training.epochs // self.iterations)",
    ),
    Mutant("mcjax/commands/merge.py", "averages[list(averages)[-1]]", "averages[list(averages)[0]]"),
    Mutant(
        "mcjax/commands/evaluate.py",
        'Augmentation(**about["augmentation"]) if "augmentation" in about else None',
        "None",
    ),
    # What stood there before a save that was killed half-way.
    Mutant("mcjax/runs/stage.py", "checkpoint.recover(path)", "pass"),
    Mutant("mcjax/runs/checkpoint.py", "if record[_SHA256] != _checksum(record, tree):", "if False:"),
    Mutant("mcjax/runs/checkpoint.py", '("about", "keys", _STRUCTURE)', '("keys", _STRUCTURE)'),
    Mutant("mcjax/trees/names.py", "[leaves[name] for name in names])", "list(leaves.values()))"),
    Mutant("mcjax/runs/folder.py", 'entry["epoch"] <= epoch', 'entry["epoch"] < epoch'),
    Mutant(
        "mcjax/trees/variables.py",
        'f"{name} {array.dtype} {array.shape}"',
        'f"{name} {array.dtype}"',
    ),
    Mutant(
        "experiments/linear_connectivity/tractable.py",
        "for other in kept):",
        "for other in kept[-1:]):",
    ),
    Mutant("experiments/linear_connectivity/low_rank.py", "share * tau / 32", "share * tau * 16"),
    Mutant("experiments/linear_connectivity/low_rank.py", "Z @ U @ V", "Z @ (U @ V).T"),
    Mutant("experiments/linear_connectivity/linear_models.py", "(2 - rate * B)", "(2 - 2 * rate * B)"),
    Mutant(
        "experiments/string_sampling/measures.py",
        "before = sum(reached[: number * problem.pairs])",
        "before = number * problem.pairs",
        ("experiments/string_sampling/test_study.py",),
    ),
    # What half-steps of PAM accept, keep and report, and of which rate; parts of the way; keys, schedules, epochs.
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "before = np.where(moves, proposal.proposed, state.objective)",
        "before = state.objective",
        HALF_STEPS,
    ),
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        'acceptance == "always" else cost <= state.objective',
        'acceptance == "always" else cost - moved / nu_P <= state.objective',
        HALF_STEPS,
    ),
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "accepted = (moved > 0) & admissible",
        "accepted = (moved >= 0) & admissible",
        HALF_STEPS,
    ),
    Mutant(
        "mcjax/curves/pam_half_steps.py", "state.objective, cost - moved / nu_P)", "state.objective, cost)", HALF_STEPS
    ),
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "split = p.reshape(rates, -1, *p.shape[1:]).swapaxes(0, 1)",
        "split = p.reshape(-1, rates, *p.shape[1:])",
        HALF_STEPS,
    ),
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "relaxation, trees.index(history, each + pairs.number * rate)",
        "relaxation, trees.index(history, each)",
        HALF_STEPS,
    ),
    Mutant("mcjax/curves/pam_half_steps.py", "chosen = chosen + pairs.number * moves", "chosen = chosen", HALF_STEPS),
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "distance**2 / (2 * problem.config.nu_phi)",
        "distance / (2 * problem.config.nu_phi)",
        HALF_STEPS,
    ),
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "permute_pairs(problem.curve.spec, P, theta_2), start.variables)",
        "permute_pairs(problem.curve.spec, P, theta_2), trees.scale(0.0, start.variables))",
        HALF_STEPS,
    ),
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "jnp.issubdtype(new.dtype, jnp.floating) else new",
        "jnp.issubdtype(new.dtype, jnp.floating) else where(new, fresh)",
        HALF_STEPS,
    ),
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "before=problem.epochs_before(iteration, False)",
        "before=problem.epochs_before(iteration, True)",
        HALF_STEPS,
    ),
    Mutant("mcjax/curves/pam.py", "jax.random.split(jax.random.fold_in(key, k))", "jax.random.split(key)", HALF_STEPS),
    Mutant(
        "mcjax/curves/pam_problem.py",
        "self.config.iterations * self.config.curve.epochs",
        "self.config.curve.epochs",
        HALF_STEPS,
    ),
    Mutant(
        "mcjax/curves/pam_problem.py",
        "iteration * (permutation + self.config.curve.epochs) +",
        "iteration * permutation +",
        HALF_STEPS,
    ),
    Mutant(
        "mcjax/curves/pam_step.py",
        "(p + 1 / p.shape[-1]) / 2 for",
        "p for",
        ("curves/test_pam_half_steps.py", "curves/test_pam.py", "curves/test_pam_step.py"),
    ),
    Mutant(
        "mcjax/curves/pam_step.py",
        "states._replace(variables=states.fixed.anchor)",
        "states",
        ("curves/test_pam_half_steps.py", "curves/test_pam.py", "curves/test_pam_step.py"),
    ),
    Mutant("mcjax/curves/pam_candidates.py", "range(2, len(order[i]) + 1)", "range(2, len(order[i]))"),
    Mutant("mcjax/curves/pam_candidates.py", "default_rng([*seed, pair])", "default_rng(seed)"),
    Mutant("mcjax/curves/pam_candidates.py", "np.argsort(old)[new]", "new[np.argsort(old)]"),
    Mutant("mcjax/curves/objective.py", "jnp.float32) + 0.5) / points", "jnp.float32) + 0.5) / (points + 1)"),
    Mutant(
        "mcjax/training/fit.py",
        "trees.dot(change, change) / (2 * self.nu)",
        "trees.dot(change, change) / self.nu",
        ("curves/test_fit.py", "curves/test_pam_half_steps.py", "curves/test_pam.py"),
    ),
    Mutant(
        "mcjax/curves/pam_half_steps.py",
        "learned = trees.index(states.variables, each + pairs.number * rate)",
        "learned = trees.index(states.variables, each * len(rates) + rate)",
        HALF_STEPS,
    ),
    Mutant("mcjax/curves/pam_half_steps.py", "elif settings.samples and problem", "elif problem", HALF_STEPS),
    Mutant(
        "mcjax/curves/pam_problem.py",
        "curve.weight_decay if settings.regularized else 0.0",
        "curve.weight_decay",
        HALF_STEPS,
    ),
    Mutant("mcjax/curves/pam_candidates.py", "for part in (*cycles[i], *groups[i]))]", "for part in cycles[i])]"),
    Mutant("mcjax/curves/objective.py", "1 / (count * len(ts))", "1 / count", HALF_STEPS),
    Mutant(
        "mcjax/symmetry/infer/propagation.py",
        "reads = (operand, position) in over and (data or operand == 1)",
        "reads = (operand, position) in over and data",
        ("symmetry/infer/test_spec.py",),
    ),
    Mutant(
        "mcjax/symmetry/infer/propagation.py",
        "return [Value(value.axes, value.data or operands[0].data) for value in unified]",
        "return unified",
        ("symmetry/infer/test_spec.py",),
    ),
    # Loops and branches, factors that do not line up, and windows.
    Mutant("mcjax/symmetry/infer/propagation.py", "found.pin(Value(value.axes[:1], value.data), reason)", "pass"),
    Mutant(
        "mcjax/symmetry/infer/propagation.py",
        "unified = found.unify(unified, Value(value.axes[:1], value.data))",
        "unified = Value(value.axes[:1], value.data)",
    ),
    Mutant(
        "mcjax/symmetry/infer/propagation.py",
        "unified = [found.unify(a, b) for a, b in zip(unified, other, strict=True)]",
        "unified = other",
    ),
    Mutant(
        "mcjax/symmetry/infer/propagation.py",
        "return [found.unify(before, after) for before, after in zip(carry, outputs, strict=True)]",
        "return outputs",
    ),
    Mutant("mcjax/symmetry/infer/propagation.py", "found.run(condition, [*operands[:split], *carry], None)", "pass"),
    Mutant(
        "mcjax/symmetry/infer/factors.py",
        "self.pin((a, b), MISALIGNED)",
        "pass",
        ("symmetry/infer/test_factors.py", "symmetry/infer/test_factors_random.py"),
    ),
    Mutant(
        "mcjax/symmetry/infer/factors.py",
        "                self.pin((b,), reason)",
        "                pass",
        ("symmetry/infer/test_factors.py", "symmetry/infer/test_factors_random.py"),
    ),
    Mutant(
        "mcjax/symmetry/infer/factors.py",
        "self.pin(p[:i] + q[:j], MISALIGNED)",
        "self.pin(p[:i], MISALIGNED)",
        ("symmetry/infer/test_factors.py", "symmetry/infer/test_factors_random.py"),
    ),
    Mutant(
        "mcjax/symmetry/infer/factors.py",
        "self._parent[twin] = self.find(term)",
        "self._parent[twin] = twin",
        ("symmetry/infer/test_factors.py", "symmetry/infer/test_factors_random.py"),
    ),
    Mutant(
        "mcjax/symmetry/infer/factors.py",
        "todo.extend(reversed(refined))",
        "todo.extend(refined)",
        ("symmetry/infer/test_factors.py", "symmetry/infer/test_factors_random.py"),
    ),
    Mutant(
        "mcjax/symmetry/infer/factors.py",
        "halves = self.cut(part, [size, length - size])",
        "halves = self.cut(part, [length - size, size])",
        ("symmetry/infer/test_factors.py", "symmetry/infer/test_factors_random.py"),
    ),
    Mutant(
        "mcjax/symmetry/infer/factors.py",
        "segments = self.cut(q[:k], [self.length(part) for part in head.parts])",
        "segments = self.cut(q[:k], [self.length(part) for part in reversed(head.parts)])",
        ("symmetry/infer/test_factors.py", "symmetry/infer/test_factors_random.py"),
    ),
    Mutant(
        "mcjax/symmetry/infer/contractions.py",
        "op.factors.unify(op.product(0, x_in), group + op.product(1, k_in))",
        "op.factors.unify(op.product(0, x_in), op.product(1, k_in) + group)",
    ),
    Mutant(
        "mcjax/symmetry/infer/contractions.py",
        "            op.pin(0, i)\n            op.pin(1, k)\n",
        "            op.pin(0, i)\n",
    ),
    Mutant(
        "mcjax/symmetry/infer/contractions.py",
        "op.shapes[1][k] == 1 and window == (1, (0, 0), 1)",
        "op.shapes[1][k] == 1 and window[0] == 1",
    ),
    Mutant(
        "mcjax/symmetry/infer/contractions.py",
        '(params["window_strides"][i], tuple(params["padding"][i]), dilation) == (1, (0, 0), 1)',
        '(params["window_strides"][i], dilation) == (1, 1)',
    ),
    Mutant(
        "mcjax/symmetry/infer/contractions.py", 'params["base_dilation"][i] if "base_dilation" in params else 1', "1"
    ),
    Mutant(
        "mcjax/symmetry/infer/elementwise.py", '    for i in op.equation.params["axes"]:\n        op.pin(0, i)\n', ""
    ),
    Mutant(
        "mcjax/symmetry/infer/elementwise.py",
        "unified = [op.unify(axes[i] for axes in op.axes) for",
        "unified = [op.axes[0][i] for",
    ),
    Mutant(
        "mcjax/symmetry/infer/elementwise.py",
        'range(rank - len(op.equation.params["fft_lengths"]), rank)',
        "range(rank - 1, rank)",
    ),
    Mutant(
        "mcjax/symmetry/infer/elementwise.py",
        "diagonal = op.factors.new(shape[i])",
        "diagonal = op.new_pinned(shape[i])",
    ),
    Mutant("mcjax/symmetry/infer/occurrences.py", "for copy in range(outer):", "for copy in range(1):"),
    Mutant("mcjax/symmetry/infer/occurrences.py", "at = start + copy * size * inner", "at = start + copy * size"),
    Mutant("mcjax/symmetry/infer/occurrences.py", "(-count, *part, -inner), at)", "(-count, *part), at)"),
    Mutant("mcjax/symmetry/infer/occurrences.py", "        outer *= size\n", "        outer = size\n"),
    Mutant(
        "mcjax/symmetry/infer/occurrences.py",
        "self.start < other.stop and other.start < self.stop",
        "self.start <= other.stop and other.start <= self.stop",
    ),
    Mutant("mcjax/symmetry/infer/occurrences.py", "terms.append(factors.find(term) if", "terms.append(term if"),
    Mutant("mcjax/symmetry/infer/factors.py", "or not self.length(p):", "or False:", ("symmetry/infer/test_spec.py",)),
)
