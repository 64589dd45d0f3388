"""Faults that the tests have to see, one a row, for `tests/mutants.py`: in every folder, and semantic."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault: in `file`, `text`, which is there exactly once, becomes `replacement`.

    tests: files below tests/ that should see it, of which those that are there are run (none: the mirror of `file`).
    """

    file: str
    text: str
    replacement: str
    tests: tuple[str, ...] = ()


HALF_STEPS = ("curves/test_half_steps.py", "curves/test_pam.py")

MUTANTS = (
    # Index components told apart by nothing.
    Mutant("mcjax/symmetry/infer/contractions.py", "a.pin(1, len(index_axes))", "pass"),
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
        "mcjax/symmetry/infer/layout.py", 'return [fixed(a, 0, a.step.params["dimensions"])]', "return list(a.axes)"
    ),
    Mutant("mcjax/symmetry/infer/rules.py", "range(len(a.axes) if len(a.axes) > 1 else 0)", "range(0)"),
    Mutant(
        "mcjax/symmetry/infer/walk.py",
        "kept = [w.unify(before, after) for before, after in zip(carry, outputs[:carries], strict=True)]",
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
        "(size + low + high - k) // stride + 1",
        "(size + 2 * low - k) // stride + 1",
    ),
    Mutant(
        "mcjax/models/lstm.py",
        "nn.sigmoid(gates[:, 1]) * cell + nn.sigmoid(gates[:, 0])",
        "nn.sigmoid(gates[:, 0]) * cell + nn.sigmoid(gates[:, 1])",
    ),
    Mutant(
        "mcjax/models/modules.py",
        "heed_without_dropout(module)",
        "pass",
        ("models/test_dropout.py", "models/test_modules.py"),
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
    Mutant(
        "mcjax/training/criterion.py",
        "data.train_images[: self.calibration_images]",
        "data.train_images[: self.images]",
    ),
    Mutant("mcjax/training/full_batch.py", "(rows < n).astype(np.float32)", "(rows <= n).astype(np.float32)"),
    Mutant("mcjax/training/newton.py", "return end, curved + part * along, left", "return end, curved + along, left"),
    Mutant(
        "mcjax/training/early_stopping.py",
        "np.full(size - len(self.going), len(self.values))",
        "np.full(size - len(self.going), 0)",
    ),
    Mutant(
        "mcjax/runs/recorder.py",
        "recorder.run.rewind(recorder.stage, self.done)",
        "recorder.run.rewind(recorder.stage, self.done + 1)",
        ("runs/test_recorder.py", "training/test_loop.py", "commands/test_train.py"),
    ),
    Mutant(
        "mcjax/training/spawning.py",
        "jax.random.fold_in(jax.random.fold_in(apart, epoch), child)",
        "jax.random.fold_in(apart, child)",
    ),
    Mutant(
        "mcjax/training/batch_statistics.py", "share * (1 - share) * jnp.square(shift)", "share * jnp.square(shift)"
    ),
    Mutant(
        "mcjax/training/config.py",
        "optax.chain(optax.clip_by_global_norm(config.clip), chosen)",
        "optax.chain(chosen, optax.clip_by_global_norm(config.clip))",
    ),
    # The permutations of an epoch written down a step late, and a step early.
    Mutant(
        "mcjax/matching/straight_through.py",
        "number = (state.step - 1) // self.steps",
        "number = (state.step - 2) // self.steps",
    ),
    Mutant(
        "mcjax/matching/straight_through.py",
        "number = (state.step - 1) // self.steps",
        "number = state.step // self.steps",
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
        "mcjax/matching/weights.py",
        "if not coupled or objective(moved) > objective(self.P)",
        "if coupled or objective(moved) > objective(self.P)",
    ),
    # The curve's proximal term, gone from what its half-step descends.
    Mutant(
        "mcjax/curves/fit.py",
        "value = value + trees.dot(moved, moved) / (2 * self.nu_phi)",
        "pass",
        ("curves/test_fit.py", *HALF_STEPS),
    ),
    Mutant("mcjax/curves/pam.py", "config.annealing**k * each for group", "each for group", HALF_STEPS),
    # Momentum kept by a half-step that is refused.
    Mutant("mcjax/curves/half_steps.py", "jax.tree.map(without_momentum, new.optimizer)", "new.optimizer", HALF_STEPS),
    # Lookahead without proximal terms.
    Mutant(
        "mcjax/curves/half_steps.py",
        "np.subtract(*(values + proximal).reshape(2, -1))",
        "np.subtract(*values.reshape(2, -1))",
        HALF_STEPS,
    ),
    # The best candidate without its proximal term.
    Mutant(
        "mcjax/curves/half_steps.py",
        "np.argmin(np.nan_to_num(values + proximal, nan=np.inf), 1)",
        "np.argmin(np.nan_to_num(values, nan=np.inf), 1)",
        HALF_STEPS,
    ),
    # The rate of permutations without its floor of 100 steps.
    Mutant("mcjax/curves/half_steps.py", "max(full, 100)", "full", HALF_STEPS),
    # Batch statistics that stay where they are.
    Mutant(
        "mcjax/permutation_points/equal_loss.py",
        "layer.with_statistics(new, unit, here, (unit if like is None else like,), (share,))",
        "new",
    ),
    # Biases, norms and statistics that are not cleared.
    Mutant(
        "mcjax/constructions/moves.py",
        "units[str(layer.group)], 0)",
        "units[str(layer.group)], 0) if name == layer.kernel else new[name]",
    ),
    Mutant("mcjax/strings/scan.py", "np.maximum(np.maximum(steep[:-2], steep[1:-1]), steep[2:])", "steep[1:-1]"),
    Mutant(
        "mcjax/strings/sampling.py",
        "jax.random.fold_in(jax.random.fold_in(strand.key, strand.depth), i)",
        "jax.random.fold_in(strand.key, i)",
    ),
    Mutant("mcjax/strings/families.py", "for i in (knot - 1, knot) if", "for i in (knot,) if"),
    Mutant(
        "mcjax/strings/record.py",
        "(strand.threshold, jax.random.key_data(strand.key), strand.knots[0]",
        "(strand.threshold, strand.knots[0]",
    ),
    Mutant("mcjax/curves/polyline.py", "jax.tree.leaves(trees.params(knots))", "jax.tree.leaves(knots)"),
    Mutant(
        "mcjax/constructions/linear.py",
        "here[k] - 2 * np.outer(here[k] @ mirrored, mirrored)",
        "here[k] - np.outer(here[k] @ mirrored, mirrored)",
    ),
    Mutant(
        "mcjax/constructions/dropout.py", "math.floor((1 - shares[g]) * n + 1e-9)", "math.floor((1 - shares[g]) * n)"
    ),
    Mutant(
        "mcjax/constructions/chain.py",
        "jnp.tile(jnp.repeat(jnp.asarray(factor), axis.inner), axis.outer)",
        "jnp.repeat(jnp.tile(jnp.asarray(factor), axis.inner), axis.outer)",
    ),
    Mutant("mcjax/permutation_points/higher_order.py", "silent[two] = True", "pass"),
    Mutant(
        "mcjax/permutation_points/walk.py",
        "float(self.heights.max() - self.loss[0])",
        "float(self.loss.max() - self.loss[0])",
    ),
    Mutant(
        "mcjax/curves/rounding.py", "rng.choice(len(weights), samples, p=weights)", "rng.choice(len(weights), samples)"
    ),
    # Whatever rounding makes of a constant unit is scaled up.
    Mutant("mcjax/landscape/repair.py", "now.deviation > 1e-5 * jnp.abs(now.mean)", "now.deviation > 0"),
    Mutant(
        "mcjax/landscape/along.py", "np.trapezoid(values, at, axis=-1)", "np.trapezoid(values, self._share(), axis=-1)"
    ),
    Mutant("mcjax/hessian/products.py", "(summed / split.size + decay * v)", "(summed / split.size)"),
    Mutant("mcjax/hessian/lanczos.py", "values.std(ddof=1) / draws**0.5", "values.std() / draws**0.5"),
    Mutant("mcjax/landscape/stability.py", "each[-(-len(each) // 2) - 1]", "each[len(each) // 2]"),
    Mutant("mcjax/landscape/plane.py", ".T.reshape(-1, len(y), len(x))", ".T.reshape(-1, len(x), len(y))"),
    Mutant("mcjax/landscape/spectrum.py", "period[..., 0] = (values[..., 0] + values[..., -1]) / 2", "pass"),
    Mutant("mcjax/landscape/signature.py", "before[0], before[1], after[0])", "before[0], before[1], after[1])"),
    Mutant(
        "mcjax/plotting/style.py",
        "values.std(0, ddof=1)",
        "values.std(0)",
        ("plotting/test_style.py", "plotting/test_paths.py", "plotting/test_training.py"),
    ),
    Mutant("mcjax/plotting/training.py", "axes.plot(steps + 1, proposed[", "axes.plot(steps, proposed["),
    Mutant("mcjax/commands/pam.py", '-(-fit["epochs"] // iterations)', 'max(1, fit["epochs"] // iterations)'),
    Mutant("mcjax/commands/merge.py", "averages[list(averages)[-1]]", "averages[list(averages)[0]]"),
    Mutant(
        "mcjax/commands/evaluate.py",
        'Augmentation(**about["augmentation"]) if "augmentation" in about else None',
        "None",
    ),
    # What stood there before a save that was killed half-way.
    Mutant("mcjax/runs/checkpoint.py", "_put_back(self.path)", "pass"),
    Mutant("mcjax/runs/folder.py", 'entry["epoch"] <= epoch', 'entry["epoch"] < epoch'),
    Mutant("mcjax/trees.py", 'f"{name} {array.dtype} {array.shape}"', 'f"{name} {array.dtype}"'),
    Mutant(
        "experiments/linear_connectivity/tractable.py",
        "for other in kept):",
        "for other in kept[-1:]):",
        ("experiments/test_tractable.py",),
    ),
    Mutant(
        "experiments/string_sampling/measures.py",
        "before = sum(reached[: number * task.pairs])",
        "before = number * task.pairs",
        ("experiments/test_string_sampling.py",),
    ),
)
