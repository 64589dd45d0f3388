"""The workloads of mcjax, their floating-point operations and their memory."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from mcjax import (
    Augmentation,
    Dataset,
    Model,
    Task,
    bezier,
    evaluate_path,
    match_activations,
    plane,
    supervised,
    trees,
)
from mcjax.curves import curve_fit, permutation_fit
from mcjax.runtime import mapping
from mcjax.runtime.compiling import Compiled
from mcjax.training import Fit, FitState, endpoint_fit
from mcjax.training.fit import ComputeDtype
from mcjax.training.loop import EpochPlan, initial_states, run_epochs

RATE = 0.01
"""Learning rate of both sides, low enough for untrained networks."""
WEIGHT_DECAY = 5e-4
OPTIMIZER = optax.sgd(RATE, momentum=0.9, nesterov=True)
"""The optimiser of networks and curves, as on the other side."""
PERMUTATION_RATE = 1e-3
NU_P = 1e5
PERMUTATION_OPTIMIZER = optax.sgd(1.0)
"""The optimiser of soft permutations, at the rate of their group."""
NO_AUGMENTATION = Augmentation.none()


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
        theta_1: the first network of every pair, with a leading pair axis.
        theta_2: the second one.
        theta_3: a third one, for planes.
        theta_c: the deviation of a curve, of the parameters.
        training: the task with the images of an epoch.
        augmented: the same with augmentation.
        evaluation: the task with the images to match, to calibrate and to evaluate on.
        sizes: how much work.
        compute_dtype: the precision of the epochs.
    """

    theta_1: trees.Tree
    theta_2: trees.Tree
    theta_3: trees.Tree
    theta_c: trees.Tree
    training: Task
    augmented: Task
    evaluation: Task
    sizes: Sizes
    compute_dtype: ComputeDtype

    @property
    def model(self) -> Model:
        """The model."""
        assert self.training.model is not None
        return self.training.model

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return len(jax.tree.leaves(self.theta_1)[0])

    @property
    def matched(self) -> Task:
        """The task with the images to match on, normalised as they are on the other side."""
        images, labels = self.evaluation.train
        return self.evaluation.replace(train=(self.evaluation.model_inputs((images, labels)), labels))


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
    one, two, three = (init(jax.random.split(jax.random.key(seed), pairs)) for seed in range(3))
    # Not zero, so that no side saves work on it.
    theta_c = jax.tree.map(lambda leaf: 0.01 * leaf, trees.params(three))
    training = jax.device_put(dataset.take(sizes.steps * sizes.batch, 1))
    evaluation = jax.device_put(dataset.take(sizes.images, sizes.images))
    plain, augmented = (supervised(model, training, augmentation=each) for each in (NO_AUGMENTATION, Augmentation()))
    measured = supervised(model, evaluation, augmentation=NO_AUGMENTATION)
    return Work(one, two, three, theta_c, plain, augmented, measured, sizes, compute_dtype)


def endpoint(work: Work, augmented: bool = False) -> Callable[[], Any]:
    """One epoch of training, one network a pair."""
    return _epoch(work, *_endpoint(work), augmented)


def curve(work: Work, augmented: bool = False) -> Callable[[], Any]:
    """One epoch of fitting a quadratic Bezier curve."""
    return _epoch(work, *_curve(work), augmented)


def permutation(work: Work) -> Callable[[], Any]:
    """One epoch of projected SGD on soft permutations."""
    return _epoch(work, *_permutation(work))


def _epoch(work: Work, fit: Fit, states: FitState, augmented: bool = False) -> Callable[[], Any]:
    """One epoch of a fit."""
    task, plan = work.augmented if augmented else work.training, EpochPlan(work.sizes.batch, work.sizes.steps)
    keys = jax.random.split(jax.random.key(0), work.pairs)
    return lambda: run_epochs(fit, task, plan, states, keys, epochs=1)


def match(work: Work) -> Callable[[], Any]:
    """Neuron alignment of every pair."""
    task, sizes = work.matched, work.sizes
    ends = (work.theta_1, work.theta_2)
    return lambda: match_activations(task, *ends, examples=sizes.images, batch_size=sizes.batch)


def path(work: Work) -> Callable[[], Any]:
    """Train and test metrics along a curve, batch statistics re-estimated at every point."""
    bound = bezier(work.model.spec).bind_pairs(work.theta_1, work.theta_2, whole_bend(work))
    size = work.sizes.evaluation_batch
    return lambda: evaluate_path(work.evaluation, bound, work.sizes.points, batch_size=size)


def plane_of_first(work: Work) -> Callable[[], Any]:
    """Test metrics on the plane through three networks of the first pair."""
    one, two, three = (trees.index(theta, 0) for theta in (work.theta_1, work.theta_2, work.theta_3))
    options: dict[str, Any] = {"splits": "test", "batch_size": work.sizes.evaluation_batch}
    return lambda: plane(work.evaluation, one, two, three, work.sizes.plane_points, **options)


PROGRAMS: dict[str, Callable[[Work], Callable[[], Any]]] = {
    "endpoint": endpoint, "curve": curve, "permutation": permutation,
    "match": match, "path": path, "plane": plane_of_first,
}  # fmt: skip


def whole_bend(work: Work) -> trees.Tree:
    """theta_c as a tree like theta: zero for the batch statistics."""
    return trees.with_params(jax.tree.map(jnp.zeros_like, work.theta_1), work.theta_c)


def _endpoint(work: Work) -> tuple[Fit, FitState]:
    """The training of the first networks, and its states."""
    fit = endpoint_fit(work.training, OPTIMIZER, weight_decay=WEIGHT_DECAY, compute_dtype=work.compute_dtype)
    return fit, initial_states(fit, work.theta_1)


def _curve(work: Work) -> tuple[Fit, FitState]:
    """The fitting of curves, and its states."""
    settings: dict[str, Any] = {"weight_decay": WEIGHT_DECAY, "compute_dtype": work.compute_dtype}
    fit = curve_fit(work.training, bezier(work.model.spec), OPTIMIZER, **settings)
    return fit, initial_states(fit, work.theta_1, work.theta_2, None, work.theta_c)


def _permutation(work: Work) -> tuple[Fit, FitState]:
    """The fitting of soft permutations from the identity, and its states."""
    settings: dict[str, Any] = {"compute_dtype": work.compute_dtype, "nu_P": NU_P}
    fit = permutation_fit(work.training, bezier(work.model.spec), PERMUTATION_OPTIMIZER, **settings)
    sizes = work.model.spec.group_sizes(trees.index(work.theta_1, 0))
    rates = {group: jnp.full(work.pairs, PERMUTATION_RATE) for group in sizes}
    return fit, initial_states(fit, work.theta_1, work.theta_2, None, work.theta_c, rates)


def other_way(work: Work, workload: str) -> Callable[[], Any]:
    """A workload with the pairs run in the way that mcjax does not choose."""
    # With functions of their own, or the programs that were compiled in the chosen way would be found.
    tasks = {name: getattr(work, name) for name in ("training", "augmented", "evaluation")}
    own = {name: task.replace(init=partial(task.init)) for name, task in tasks.items()}
    run = PROGRAMS[workload](work._replace(**own))
    chosen = mapping.convolutions_are_sequential

    def run_it() -> Any:
        with mock.patch.object(mapping, "convolutions_are_sequential", return_value=not chosen()):
            return run()

    return run_it


def is_convolutional(work: Work) -> bool:
    """Whether the networks have convolutions."""
    shapes = jax.eval_shape(work.model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, *work.model.input_shape), work.model.input_dtype)
    return mapping.has_convolutions(jax.make_jaxpr(work.model.apply)(shapes, x))


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
    one, two = (trees.index(theta, 0) for theta in (work.theta_1, work.theta_2))
    fits = {"endpoint": _endpoint, "curve": _curve, "permutation": _permutation}
    if workload in fits:
        fit, states = fits[workload](first)
        return sizes.steps * work.pairs * _flops(fit.step, trees.index(states, 0), (x, labels), key)
    if workload == "match":
        return work.pairs * sizes.images / sizes.batch * _flops(lambda *args: _products(model, *args), one, two, x)
    forward = _flops(work.evaluation.measure, one, (x, labels)) / sizes.batch
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
