"""The workloads of mcjax, their floating-point operations and their memory."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from mcjax import (
    Augmentation,
    Dataset,
    FitConfig,
    Model,
    TrainConfig,
    bezier,
    data,
    evaluate_path,
    match_activations,
    plane,
    trees,
)
from mcjax.curves.fit import CurveContext, CurveState, CurveStep
from mcjax.curves.pam_step import PermutationContext, PermutationState, PermutationStep
from mcjax.runtime import mapping
from mcjax.runtime.compiling import Compiled
from mcjax.training.config import ComputeDtype
from mcjax.training.endpoints import EndpointStep
from mcjax.training.loop import run_epochs
from mcjax.training.objective import loss_and_accuracy

RATE = 0.01
"""Learning rate of both sides, low enough for untrained networks."""
PERMUTATION_RATE = 1e-3
NU_P = 1e5
LARGEST_STEP = 0.5
"""The largest step of an entry of a soft permutation, as in PAM."""


class Sizes(NamedTuple):
    """Amount of work.

    Attributes:
        batch: images of a batch of an epoch, and of matching.
        steps: batches of an epoch.
        points: points of a path.
        plane_points: points of a plane along each axis.
        images: images to calibrate, match and evaluate on.
    """

    batch: int
    steps: int
    points: int
    plane_points: int
    images: int

    @property
    def evaluation_batch(self) -> int:
        """Images that are evaluated together."""
        return min(500, self.images)

    def of(self, workload: str) -> str:
        """The sizes of one workload in words."""
        cells = f"{self.plane_points}x{self.plane_points}"
        said = {"match": f"{self.images} images", "path": f"{self.points} points, {self.images} images"}
        said |= {"plane": f"{cells} points, {self.images} images"}
        return said.get(workload, f"{self.steps} steps of {self.batch}")


class Work(NamedTuple):
    """The networks, images and sizes that both sides work on.

    Attributes:
        model: the model.
        theta_1: the first network of every pair, with a leading pair axis.
        theta_2: the second one.
        theta_3: a third one, for planes.
        theta_c: the deviation of a curve, of the parameters.
        training: the images of an epoch.
        evaluation: the images to match, to calibrate and to evaluate on.
        sizes: how much work.
        compute_dtype: the precision of the epochs.
    """

    model: Model
    theta_1: trees.Tree
    theta_2: trees.Tree
    theta_3: trees.Tree
    theta_c: trees.Tree
    training: Dataset
    evaluation: Dataset
    sizes: Sizes
    compute_dtype: ComputeDtype

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return len(jax.tree.leaves(self.theta_1)[0])

    @property
    def matched(self) -> jax.Array:
        """The images to match on, float32 as the model takes them."""
        return data.normalize(self.evaluation.train_images, self.evaluation.mean, self.evaluation.std)


def work_for(model: Model, dataset: Dataset, pairs: int, sizes: Sizes, compute_dtype: ComputeDtype) -> Work:
    """Untrained networks and the first images.

    Args:
        model: the model.
        dataset: the images.
        pairs: pairs of networks.
        sizes: how much work.
        compute_dtype: the precision of the epochs.

    Raises:
        InputError: the data set has too few images.
    """
    init = jax.jit(jax.vmap(model.init))
    thetas = [init(jax.random.split(jax.random.key(seed), pairs)) for seed in range(3)]
    # Not zero, so that no side saves work on it.
    theta_c = jax.tree.map(lambda leaf: 0.01 * leaf, trees.params(thetas[2]))
    training = jax.device_put(dataset.take(sizes.steps * sizes.batch, 1))
    evaluation = jax.device_put(dataset.take(sizes.images, sizes.images))
    return Work(model, thetas[0], thetas[1], thetas[2], theta_c, training, evaluation, sizes, compute_dtype)


def endpoint(work: Work, augmented: bool = False) -> Callable[[], Any]:
    """One epoch of training, one network a pair."""
    step = _endpoint_step(work, augmented)
    keys = jax.random.split(jax.random.key(0), work.pairs)
    states = jax.jit(jax.vmap(step.init))(keys)
    return lambda: run_epochs(step, work.training, {}, states, keys, epochs=1)


def curve(work: Work, augmented: bool = False) -> Callable[[], Any]:
    """One epoch of fitting a quadratic Bezier curve."""
    step, context = _curve_step(work, augmented), CurveContext(work.theta_1, work.theta_2)
    states, keys = _curve_states(work, step), jax.random.split(jax.random.key(0), work.pairs)
    return lambda: run_epochs(step, work.training, context, states, keys, epochs=1)


def permutation(work: Work) -> Callable[[], Any]:
    """One epoch of projected SGD on soft permutations."""
    step, context, states = _permutation(work)
    keys = jax.random.split(jax.random.key(0), work.pairs)
    return lambda: run_epochs(step, work.training, context, states, keys, epochs=1)


def match(work: Work) -> Callable[[], Any]:
    """Neuron alignment of every pair."""
    images = work.matched
    return lambda: match_activations(work.model, work.theta_1, work.theta_2, images, work.sizes.batch)


def path(work: Work) -> Callable[[], Any]:
    """Train and test metrics along a curve, batch statistics re-estimated at every point."""
    bound = bezier(work.model.spec).bind_pairs(work.theta_1, work.theta_2, whole_bend(work))
    return lambda: evaluate_path(work.model, bound, work.evaluation, work.sizes.points, **_evaluation(work))


def plane_of_first(work: Work) -> Callable[[], Any]:
    """Test metrics on the plane through three networks of the first pair."""
    one, two, three = (trees.index(theta, 0) for theta in (work.theta_1, work.theta_2, work.theta_3))
    options = {"splits": "test", **_evaluation(work)}
    return lambda: plane(work.model, one, two, three, work.evaluation, work.sizes.plane_points, **options)


def _evaluation(work: Work) -> dict[str, Any]:
    return {"batch_size": work.sizes.evaluation_batch, "augmentation": Augmentation.none()}


PROGRAMS: dict[str, Callable[[Work], Callable[[], Any]]] = {
    "endpoint": endpoint, "curve": curve, "permutation": permutation,
    "match": match, "path": path, "plane": plane_of_first,
}  # fmt: skip


def whole_bend(work: Work) -> trees.Tree:
    """theta_c as a tree like theta: zero for the batch statistics."""
    return trees.with_params(jax.tree.map(jnp.zeros_like, work.theta_1), work.theta_c)


def _endpoint_step(work: Work, augmented: bool = False) -> EndpointStep:
    return EndpointStep(work.model, _config(work, TrainConfig, augmented), work.sizes.steps)


def _curve_step(work: Work, augmented: bool = False) -> CurveStep:
    return CurveStep(work.model, bezier(work.model.spec), _config(work, FitConfig, augmented), work.sizes.steps)


def _curve_states(work: Work, step: CurveStep) -> CurveState:
    return jax.jit(jax.vmap(step.init))(work.theta_1)._replace(theta_c=work.theta_c)


def _permutation(work: Work) -> tuple[PermutationStep, PermutationContext, PermutationState]:
    config = _config(work, TrainConfig, False)
    step = PermutationStep(work.model, bezier(work.model.spec), config, work.sizes.steps, NU_P, "alternating")
    sizes = work.model.spec.group_sizes(trees.index(work.theta_1, 0))
    anchor = {group: jnp.tile(jnp.eye(n), (work.pairs, 1, 1)) for group, n in sizes.items()}
    rates = {group: jnp.full(work.pairs, PERMUTATION_RATE) for group in sizes}
    context = PermutationContext(work.theta_1, work.theta_2, work.theta_c, anchor, rates)
    return step, context, PermutationState(anchor, jnp.zeros(work.pairs, jnp.int32))


def _config(work: Work, kind: type[Any], augmented: bool) -> Any:
    augmentation = Augmentation() if augmented else Augmentation.none()
    shared = {"batch_size": work.sizes.batch, "compute_dtype": work.compute_dtype, "augmentation": augmentation}
    return kind(learning_rate=RATE, schedule="constant", **shared)


def other_way(work: Work, workload: str) -> Callable[[], Any]:
    """A workload with the pairs run in the way that mcjax does not choose."""
    # By another name, or the program that was compiled in the chosen way would be found.
    run = PROGRAMS[workload](work._replace(model=work.model._replace(name=f"{work.model.name}, the other way")))
    chosen = mapping.sequential_is_faster

    def run_it() -> Any:
        with mock.patch.object(mapping, "sequential_is_faster", lambda kind: not chosen(kind)):
            return run()

    return run_it


def operations(work: Work, workload: str) -> float:
    """Floating-point operations of a workload: XLA's count for one step or one forward pass, times their number.

    Small ones are left out: points on curves, and all but one of the 20 projections.
    """
    first = work._replace(
        **{name: jax.tree.map(lambda leaf: leaf[:1], getattr(work, name)) for name in ("theta_1", "theta_2", "theta_c")}
    )
    sizes, model, key = work.sizes, work.model, jax.random.key(0)
    x = jax.ShapeDtypeStruct((sizes.batch, *model.input_shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((sizes.batch,), jnp.int32)
    steps = sizes.steps * work.pairs
    one, two = (trees.index(theta, 0) for theta in (work.theta_1, work.theta_2))
    if workload == "endpoint":
        step = _endpoint_step(work)
        return steps * _flops(step, {}, jax.eval_shape(step.init, key), x, labels, key)
    if workload == "curve":
        fit = _curve_step(work)
        return steps * _flops(fit, CurveContext(one, two), trees.index(_curve_states(first, fit), 0), x, labels, key)
    if workload == "permutation":
        sgd, context, states = _permutation(first)
        return steps * _flops(sgd, *trees.index((context, states), 0), x, labels, key)
    if workload == "match":
        return work.pairs * sizes.images / sizes.batch * _flops(lambda *args: _products(model, *args), one, two, x)
    forward = (
        _flops(lambda theta, x, labels: loss_and_accuracy(model.apply(theta, x), labels), one, x, labels) / sizes.batch
    )
    calibrate = 0.0
    if trees.batch_stats(one):
        calibrate = _flops(lambda theta, x: model.apply_train(theta, x, key)[1], one, x) / sizes.batch
    if workload == "path":
        return work.pairs * sizes.points * sizes.images * (calibrate + 2 * forward)
    return sizes.plane_points**2 * sizes.images * (calibrate + forward)


def _products(model: Model, theta_1: trees.Tree, theta_2: trees.Tree, x: jax.Array) -> Any:
    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return a.reshape(-1, a.shape[-1]).T @ b.reshape(-1, b.shape[-1])

    return jax.tree.map(product, model.activations(theta_1, x), model.activations(theta_2, x))


def _flops(fn: Callable[..., Any], *args: Any) -> float:
    cost = jax.jit(lambda *given: fn(*given)).lower(*args).cost_analysis()
    return float(cost["flops"]) if cost else float("nan")


def matmul_flops(size: int) -> float:
    """The rate of a matrix product in float32, the best of five."""
    a, product = jnp.ones((size, size)), jax.jit(jnp.matmul)
    return 2 * size**3 / least_seconds(lambda: jax.block_until_ready(product(a, a)))


def least_seconds(call: Callable[[], Any]) -> float:
    """The seconds of the fastest of six calls, the first of which may compile."""
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@contextmanager
def noting_programs() -> Iterator[list[tuple[Compiled, tuple, dict]]]:
    """The compiled programs that mcjax calls, with their arguments."""
    called: list[tuple[Compiled, tuple, dict]] = []
    plain = Compiled.__call__

    def noted(self: Compiled, *args: Any, **kwargs: Any) -> Any:
        called.append((self, args, kwargs))
        return plain(self, *args, **kwargs)

    with mock.patch.object(Compiled, "__call__", noted):
        yield called


def memory(called: list[tuple[Compiled, tuple, dict]]) -> int | None:
    """Bytes of the largest of these programs: arguments, results and temporaries. None if XLA does not tell."""
    needed = (program.memory(*args, **kwargs) for program, args, kwargs in called)
    return max((size for size in needed if size is not None), default=None)
