"""Tasks: the loss, the metrics and the batches that networks are trained on and measured by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from mcjax import trees
from mcjax.data.blocks import ALONE, Processes
from mcjax.data.examples import as_examples, few
from mcjax.data.stream import Stream
from mcjax.errors import InputError, check_function, check_kind, check_whole, unknown_name
from mcjax.models.base import Model, check_model
from mcjax.runtime.mapping import default_chunk, has_convolutions
from mcjax.runtime.processes import least_of_processes, many_processes, rows_of_processes
from mcjax.symmetry import PermutationSpec
from mcjax.training.loss import Batch, Metric, check_loss, check_scalars, named_metrics, outcome

SplitName = Literal["train", "validation", "test"]


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A loss, metrics and examples, by which networks are trained and measured.

    A task is a pytree: its arrays are traced and its functions static, so that it can be an argument of compiled
    functions, and tasks with the same functions share their programs. A function that is itself a pytree, such as a
    `jax.tree_util.Partial`, has its arrays traced too. `supervised` makes tasks of a model and a data set.

    Attributes:
        loss: `loss(theta, batch, key) -> value`, a differentiable scalar, the mean over the examples of the batch; or
            `(value, metrics)`, with further scalars by name; or `(value, metrics, batch_stats)`, with the statistics
            of this batch alone, like `theta["batch_stats"]`. Flax returns them mixed with the old ones;
            `models.from_flax(module, x).apply_train(theta, x, key)` returns them alone. The key is for dropout and the
            like.
        train: The training examples, any pytree of arrays with a common leading axis, of which a batch is a slice. Or,
            for data larger than memory, what yields batches on the host: an iterable that begins anew each time, or a
            function that returns one (`mcjax.data.Stream` says more). Networks that are trained side by side see the
            same batches then, and their order is that of the source. Of several processes, each gives its own part of
            every batch.
        test: The test examples, likewise. None: no test metrics.
        model: The model of the networks, for what needs its activations, inputs or outputs. None: no such methods.
        spec: The permutation symmetry of the networks. None: that of the model.
        metrics: `metrics(theta, batch) -> {name: scalar}`, for evaluation, each a mean over the examples. "loss" among
            them takes the place of the training loss. None: the loss, in training mode if it is so, with a fixed key,
            and its metrics.
        init: `init(key) -> theta`. None: that of the model. Without one, networks cannot be trained from scratch, and
            all functions take single networks, not several along a leading axis.
        inputs: `inputs(batch) -> x`, what the model takes. None: the batch, or its first entry if it is a tuple.
        augment: `augment(key, batch) -> batch`, applied to training batches. None: no augmentation.
        validation: The validation examples, or None.
        name: The name in messages.

    Raises:
        InputError: If a split has no common leading axis, or the loss is not a differentiable scalar.

    Example::

        def loss(theta, batch, key):
            x, y = batch
            return jnp.square(network(theta, x) - y).mean()

        task = Task(loss, train=(x, y), test=(x_test, y_test), init=init)
    """

    loss: Any
    train: Batch
    test: Batch | None = None
    _: KW_ONLY
    # None is told apart by `check_task` where these are needed, and nowhere else.
    model: Model = None  # type: ignore[assignment]
    spec: PermutationSpec | None = None
    metrics: Any = None
    init: Callable[[jax.Array], trees.Tree] | None = None
    inputs: Any = None
    augment: Any = None
    validation: Batch | None = None
    name: str = "the task"

    def __post_init__(self) -> None:
        for name in ("loss", "metrics", "inputs", "augment"):
            self._set(name, _traceable(name, getattr(self, name), required=name == "loss"))
        for split in get_args(SplitName):
            self._set(split, as_examples(split, getattr(self, split)))
        if self.train is None:
            raise InputError("got no training examples, expected a pytree of arrays with a common leading axis.")
        if self.model is not None:
            check_model(self.model)
            self._set("init", self.init or self.model.init)
            self._set("spec", self.spec or self.model.spec)
        if self.init is not None:
            check_function("init(key) -> theta", self.init)
            theta = jax.eval_shape(self.init, jax.random.key(0))
            _check_on(self, theta)
            if self.spec is not None:
                self.spec.validate(theta)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The traced and the static fields."""
        return tuple(getattr(self, name) for name in TRACED), tuple(getattr(self, name) for name in STATIC)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], traced: tuple[Any, ...]) -> "Task":
        """The inverse of `tree_flatten`, without checks."""
        task = object.__new__(cls)
        for name, value in zip((*TRACED, *STATIC), (*traced, *static), strict=True):
            task._set(name, value)
        return task

    def replace(self, **changes: Any) -> "Task":
        """The task with other values of these attributes, without checks."""
        task = object.__new__(Task)
        for name, value in {**vars(self), **changes}.items():
            task._set(name, value)
        return task

    def with_examples(self, **splits: Any) -> "Task":
        """The task with other examples: `train`, `test` or `validation`, as in `Task`. Checked.

        Example::

            task = supervised(model, small).with_examples(train=loader, test=test_loader)
        """
        for name in splits:
            if name not in get_args(SplitName):
                raise unknown_name("split", name, get_args(SplitName))
        if splits.get("train", ()) is None:
            raise InputError("got no training examples, expected some, or batches of them.")
        task = self.replace(**{name: as_examples(name, given) for name, given in splits.items()})
        if task.init is not None:
            _check_on(task, jax.eval_shape(task.init, jax.random.key(0)))
        return task

    def load(self, **examples: int | None) -> "Task":
        """The task with arrays in place of batches from the host: the first examples of each split named.

        Args:
            **examples: Number of examples by split, such as `train=10_000`. None: all. By default all of all splits.

        Returns:
            The task. Splits that are arrays already stay whole.

        Raises:
            InputError: If the task has no such split, or a number is below 1.
        """
        examples = examples or {name: None for name in get_args(SplitName) if getattr(self, name) is not None}
        splits = {name: self.split(name) for name in examples}
        for name, n in examples.items():
            if n is not None:
                check_whole(name, n)
        streams = {name: split for name, split in splits.items() if isinstance(split, Stream)}
        processes = reading_processes()
        return self.replace(**{name: stream.first(examples[name], processes) for name, stream in streams.items()})

    def functions(self) -> "Task":
        """The task without examples and name, for programs that are given their batches."""
        return self.replace(train=None, test=None, validation=None, name="")

    def with_metric(self, metric: Metric | None, theta: trees.Tree) -> "Task":
        """The task with a further metric, measured on the same examples and named by its `__name__`.

        Args:
            metric: `metric(theta, batch) -> scalar`, a mean over the examples of the batch. None: no further metric.
            theta: One network, or its shapes.

        Returns:
            The task.

        Raises:
            InputError: If it is no function, does not return a scalar, or has the name of a metric of the task.
        """
        if metric is None:
            return self
        name = metric_name(metric)
        if callable(metric) and name in jax.eval_shape(self.measure, theta, few(self.train)):
            raise InputError(f"got a metric {name!r}, which there is already, expected one of another name.")
        more = jax.tree_util.Partial(AndMetric(name), self.metrics, _traceable("metric", metric, True))
        task = self.replace(metrics=more)
        _check_on(task, theta)
        return task

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in get_args(SplitName) if getattr(self, name) is not None}
        counts = {
            name: "streamed" if isinstance(each, Stream) else f"{examples(each):,}" for name, each in given.items()
        }
        return f"Task({self.name}: {', '.join(f'{n} {name}' for name, n in counts.items()) or 'no'} examples)"

    def split(self, name: str) -> Batch:
        """The examples of a split. Raises InputError if there are none."""
        if name not in get_args(SplitName):
            raise unknown_name("split", str(name), get_args(SplitName))
        found = getattr(self, name)
        if found is None:
            remedy = f"Task(..., {name}=)" + (", or data.hold_out(n) of a Dataset" if name == "validation" else "")
            raise InputError(f"{self.name} has no {name} split, expected examples: {remedy}.")
        return found

    def measure(self, theta: trees.Tree, batch: Batch) -> dict[str, jax.Array]:
        """The metrics of a network on a batch in evaluation, "loss" among them. Pure."""
        found = {} if self.metrics is None else dict(named_metrics("metrics", self.metrics(theta, batch)))
        return found if "loss" in found else {**outcome(self.loss, theta, batch, jax.random.key(0)).metrics, **found}

    def model_inputs(self, batch: Batch) -> Any:
        """The part of a batch that the model takes."""
        if self.inputs is not None:
            return self.inputs(batch)
        if isinstance(batch, Mapping):
            raise InputError(
                f"got batches that are dicts of {', '.join(batch)}, expected Task(..., inputs=batch -> x)."
            )
        return batch[0] if isinstance(batch, tuple | list) else batch


@dataclass(frozen=True)
class AndMetric:
    """Metrics with a further one of this name."""

    name: str

    def __call__(self, metrics: Any, metric: Any, theta: trees.Tree, batch: Batch) -> dict[str, jax.Array]:
        return {**({} if metrics is None else metrics(theta, batch)), self.name: metric(theta, batch)}


def metric_name(metric: Any) -> str:
    """The name of a metric, also of a function with bound arguments."""
    metric = metric if isinstance(metric, str) else getattr(metric, "func", metric)
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


TRACED = ("loss", "metrics", "inputs", "augment", "train", "test", "validation")
STATIC = tuple(field.name for field in fields(Task) if field.name not in TRACED)


def examples(split: Batch) -> int:
    """The number of examples of a split of arrays."""
    return len(jax.tree.leaves(split)[0])


def reading_processes() -> Processes:
    """The processes that read streams together, each its own part of every batch."""
    return Processes(jax.process_count(), least_of_processes, rows_of_processes) if many_processes() else ALONE


def check_task(
    task: Any, *thetas: trees.Tree, model: bool = False, arrays: Sequence[str] = get_args(SplitName)
) -> Task:
    """The task, ready for a fit or a measurement of these networks.

    Args:
        task: A task.
        *thetas: Networks, on which a loss that was not checked when the task was made is checked now.
        model: Whether the task must have a model.
        arrays: The splits that may not be batches from the host.

    Returns:
        The task.

    Raises:
        InputError: If it is no task, has no model or no arrays where these are needed, or its loss does not take these
            networks.
    """
    check_kind("task", task, Task, "mcjax.supervised(model, data), or mcjax.Task(loss, train, test)")
    if model and task.model is None:
        raise InputError(f"{task.name} has no model, whose activations or outputs are needed: Task(..., model=model).")
    streamed = [name for name in dict.fromkeys(arrays) if isinstance(getattr(task, name, None), Stream)]
    if streamed:
        remedy = ", ".join(f"{name}=10_000" for name in streamed)
        raise InputError(
            f"got batches from the host for {', '.join(streamed)} of {task.name}, expected arrays, which this needs: "
            f"task.load({remedy}) takes the first examples."
        )
    if task.init is None:
        for theta in thetas:
            _check_on(task, theta)
    return task


@jax.jit
def _convolutional(task: Task, theta: trees.Tree, batch: Batch) -> dict[bool, jax.Array]:
    """Only ever traced, once for all tasks of these functions: whether there are convolutions is the key."""
    return {has_convolutions(jax.make_jaxpr(task.measure)(theta, batch)): jnp.zeros(())}


def networks_at_once(task: Task, theta: trees.Tree) -> int:
    """The default number of networks like this one in memory at once, where networks are measured."""
    return default_chunk(next(iter(_convolutional.eval_shape(task.functions(), theta, few(task.train)))))


def _traceable(name: str, function: Any, required: bool) -> Any:
    """A function as a pytree: a `Partial`, or the function if it is a pytree already."""
    if function is None and not required:
        return None
    expected = {"loss": "loss(theta, batch, key)", "inputs": "inputs(batch)", "augment": "augment(key, batch)"}
    check_function(expected.get(name, f"{name}(theta, batch)"), function)
    return jax.tree_util.Partial(function) if jax.tree_util.all_leaves([function]) else function


def _check_on(task: Task, theta: trees.Tree) -> None:
    """Check the loss and the metrics on networks of these shapes."""
    shapes = task.replace(train=few(task.train), test=few(task.test), validation=None)
    # A task that is checked when it is made needs no cache, which would keep its functions alive.
    check = _remembered_check if task.init is None else jax.jit(lambda *given: _check(*given))
    check.eval_shape(shapes, theta)


def _check(task: Task, theta: trees.Tree) -> None:
    """The check, only ever traced."""
    check_loss(task.loss, theta, task.train)
    train = jax.eval_shape(task.measure, theta, task.train)
    try:
        test = train if task.test is None else jax.eval_shape(task.measure, theta, task.test)
    except (TypeError, ValueError, KeyError) as error:
        error.add_note(f"This is of the test examples: {trees.shapes(task.test)}, train: {trees.shapes(task.train)}.")
        raise
    for split, found in (("train", train), ("test", test)):
        check_scalars(f"metrics on {split} examples", found)
    if train.keys() != test.keys():
        raise InputError(f"got metrics {sorted(train)} on train, {sorted(test)} on test: expected the same.")


_remembered_check = jax.jit(_check)


__all__ = ["SplitName", "Task", "check_task", "examples", "metric_name", "networks_at_once"]
