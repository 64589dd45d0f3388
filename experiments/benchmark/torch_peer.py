"""The other side: the same work in plain PyTorch loops.

One pair after another, one t after another, one step a call, as in the public codes (dnn-mode-connectivity
of Garipov et al., IBM's NeuronAlignment). Images are normalised before and stay on the device.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from experiments.benchmark.programs import NU_P, PERMUTATION_RATE, RATE, Work, least_seconds
from experiments.benchmark.torch_networks import Tensors, Units, network, permuted, tensors
from mcjax import Task, trees
from mcjax.runtime.target import target
from mcjax.training.task import SplitName


def projected(M: torch.Tensor, steps: int = 20) -> torch.Tensor:
    """M after alternating projection onto nonnegative entries and sums of 1, as `mcjax.symmetry.project_birkhoff`."""
    n = len(M)
    for _ in range(steps):
        M = M.clamp(min=0)
        M = M - (M.sum(1, keepdim=True) - 1) / n - (M.sum(0, keepdim=True) - 1) / n + (M.sum() - n) / n**2
    return M


def point(first: Tensors, second: Tensors, bend: Tensors, t: float) -> Tensors:
    """The quadratic Bezier curve at t.

    Args:
        first: the parameters at t = 0.
        second: the parameters at t = 1.
        bend: the deviation of the control point from the middle of the straight line.
        t: the place, from 0 to 1.
    """
    return {name: (1 - t) * first[name] + t * second[name] + 2 * t * (1 - t) * bend[name] for name in bend}


def on_gpu() -> bool:
    """Whether both sides have the GPU."""
    return target() == "gpu" and torch.cuda.is_available()


def set_precision(precision: str) -> None:
    """Products and convolutions of float32 in `tf32` or `float32`, on NVIDIA GPUs."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def matmul_flops(size: int) -> float:
    """The rate of a matrix product in float32, the best of five."""
    a = torch.ones(size, size, device="cuda" if on_gpu() else "cpu")
    # The read of one entry waits for the device.
    return 2 * size**3 / least_seconds(lambda: float((a @ a)[0, 0]))


def reset_memory() -> None:
    """Start measuring the peak of PyTorch's memory anew."""
    if on_gpu():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int | None:
    """Bytes on the GPU at most since `reset_memory`; None on the CPU."""
    return torch.cuda.max_memory_allocated() if on_gpu() else None


class Peer:
    """The loops over the networks and images of a `Work`; `runs` holds one for each workload."""

    def __init__(self, work: Work) -> None:
        self.device = torch.device("cuda" if on_gpu() else "cpu")
        self.work, self.sizes, self.spec = work, work.sizes, work.model.spec
        self.ends = [
            [tensors({"params": trees.params(trees.index(theta, i))}, self.device) for i in range(work.pairs)]
            for theta in (work.theta_1, work.theta_2, work.theta_3)
        ]
        self.bends = [tensors({"params": trees.index(work.theta_c, i)}, self.device) for i in range(work.pairs)]
        self.scratch = network(work.model.name, trees.index(work.theta_1, 0)).to(self.device)
        self.networks = [
            [network(work.model.name, trees.index(theta, i)).to(self.device) for i in range(work.pairs)]
            for theta in (work.theta_1, work.theta_2)
        ]
        self.train = self._images(work.training, "train")
        self.calibration, self.test = self._images(work.evaluation, "train"), self._images(work.evaluation, "test")
        self.runs: dict[str, Callable[[], Any]] = {
            "endpoint": self._endpoints(),
            "curve": self._curves(),
            "permutation": self._permutations,
            "match": lambda: [self.match(i) for i in range(work.pairs)],
            "path": lambda: np.array([self.along(i) for i in range(work.pairs)]),
            "plane": self.plane,
        }

    def run(self, workload: str) -> Any:
        """A workload, to its last operation on the device."""
        result = self.runs[workload]()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return result

    def _images(self, task: Task, split: SplitName) -> tuple[torch.Tensor, torch.Tensor]:
        batch = task.split(split)
        # A copy, since torch wants to write.
        x = np.array(np.asarray(task.model_inputs(batch)).transpose(0, 3, 1, 2))
        return torch.tensor(x, device=self.device), torch.tensor(np.asarray(batch[1]), device=self.device).long()

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images, labels = self.train
        for batch in torch.randperm(len(labels), device=self.device).split(self.sizes.batch):
            yield images[batch], labels[batch]

    def _loss(self, made: nn.Module, parameters: Tensors | None, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        enabled = self.work.compute_dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            logits = made(x) if parameters is None else functional_call(made, parameters, (x,))
        return cross_entropy(logits.float(), y)

    def _endpoints(self) -> Callable[[], None]:
        trained = [network(self.work.model.name, trees.index(self.work.theta_1, i)) for i in range(self.work.pairs)]
        sgd = [
            torch.optim.SGD(made.to(self.device).parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
            for made in trained
        ]

        def run() -> None:
            for made, optimizer in zip(trained, sgd, strict=True):
                for x, y in self._batches():
                    optimizer.zero_grad()
                    self._loss(made.train(), None, x, y).backward()
                    optimizer.step()

        return run

    def _curves(self) -> Callable[[], None]:
        bends = [{name: leaf.clone().requires_grad_() for name, leaf in bend.items()} for bend in self.bends]
        sgd = [torch.optim.SGD(bend.values(), RATE, momentum=0.9, nesterov=True) for bend in bends]

        def run() -> None:
            for first, second, bend, optimizer in zip(*self.ends[:2], bends, sgd, strict=True):
                for x, y in self._batches():
                    theta = point(first, second, bend, float(torch.rand(())))
                    optimizer.zero_grad()
                    loss = self._loss(self.scratch.train(), theta, x, y)
                    (loss + 2.5e-4 * torch.stack([leaf.square().sum() for leaf in theta.values()]).sum()).backward()
                    optimizer.step()

        return run

    def _permutations(self) -> None:
        for i in range(self.work.pairs):
            P = self.identity()
            for x, y in self._batches():
                P = self.permutation_step(i, P, float(torch.rand(())), x, y)

    def identity(self) -> Tensors:
        """The matrices to start from."""
        sizes = self.spec.group_sizes(trees.index(self.work.theta_1, 0))
        return {group: torch.eye(n, device=self.device) for group, n in sizes.items()}

    def permutation_step(self, i: int, P: Tensors, t: float, x: torch.Tensor, y: torch.Tensor) -> Tensors:
        """The soft permutations of one pair after a step of projected SGD.

        Args:
            i: the number of the pair.
            P: the matrices before the step.
            t: the place on the curve.
            x: images.
            y: labels.
        """
        P = {group: matrix.detach().requires_grad_() for group, matrix in P.items()}
        theta = point(self.ends[0][i], permuted(self.spec, P, self.ends[1][i]), self.bends[i], t)
        moved = sum((matrix - torch.eye(len(matrix), device=self.device)).square().sum() for matrix in P.values())
        (self._loss(self.scratch.train(), theta, x, y) + moved / (2 * NU_P)).backward()
        with torch.no_grad():
            return {group: projected(M - PERMUTATION_RATE * M.grad) for group, M in P.items() if M.grad is not None}

    @torch.no_grad()
    def match(self, i: int) -> dict[str, np.ndarray]:
        """The permutation of each group of one pair: sums over batches, read by hooks, then linear assignment."""
        pair = [networks[i].eval() for networks in self.networks]
        seen: list[dict[str, list[torch.Tensor]]] = [{}, {}]
        hooks = [
            module.register_forward_hook(
                lambda module, _, out, side=side: seen[side].setdefault(module.group, []).append(out)
            )
            for side, made in enumerate(pair)
            for module in made.modules()
            if isinstance(module, Units)
        ]
        sums: dict[tuple[str, int], list[torch.Tensor]] = {}
        count: dict[tuple[str, int], int] = {}
        for x in self.calibration[0].split(self.sizes.batch):
            for side, made in enumerate(pair):
                seen[side].clear()
                made(x)
            for group in self.spec.groups:
                for block, both in enumerate(zip(seen[0][group], seen[1][group], strict=True)):
                    a, b = (out.transpose(0, 1).flatten(1) for out in both)
                    new = [a.sum(1), b.sum(1), a.square().sum(1), b.square().sum(1), a @ b.T]
                    key = group, block
                    sums[key] = [old + each for old, each in zip(sums[key], new, strict=True)] if key in sums else new
                    count[key] = count.get(key, 0) + a.shape[1]
        for hook in hooks:
            hook.remove()
        total: dict[str, torch.Tensor] = {}
        for (group, block), (a1, b1, a2, b2, product) in sums.items():
            n = count[group, block]
            scale = ((a2 - a1**2 / n)[:, None] * (b2 - b1**2 / n)[None]).clamp(min=1e-12).sqrt()
            total[group] = total.get(group, 0) + (product - torch.outer(a1, b1) / n) / scale
        return {
            group: linear_sum_assignment(correlation.double().cpu().numpy(), maximize=True)[1]
            for group, correlation in total.items()
        }

    @torch.no_grad()
    def at(self, theta: Tensors, splits: tuple[str, ...]) -> list[float]:
        """Loss and accuracy of one network on these splits, its batch statistics re-estimated first."""
        made, size = self.scratch, self.sizes.evaluation_batch
        for name, leaf in made.named_parameters():
            leaf.copy_(theta[name])
        norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        if norms:
            made.train()
            for x in self.calibration[0].split(size):
                made(x)
        made.eval()
        values = []
        for images, labels in (self.calibration if split == "train" else self.test for split in splits):
            loss = right = torch.zeros((), device=self.device)
            for x, y in zip(images.split(size), labels.split(size), strict=True):
                logits = made(x)
                loss = loss + cross_entropy(logits, y, reduction="sum")
                right = right + (logits.argmax(1) == y).sum()
            values += [float(loss) / len(labels), float(right) / len(labels)]
        return values

    def along(self, i: int) -> list[list[float]]:
        """The distance from the t before, and loss and accuracy on train and test images, at every t."""
        values, before = [], self.ends[0][i]
        for t in np.linspace(0, 1, self.sizes.points):
            theta = point(self.ends[0][i], self.ends[1][i], self.bends[i], float(t))
            far = torch.stack([(theta[name] - before[name]).square().sum() for name in theta]).sum().sqrt()
            values.append([float(far), *self.at(theta, ("train", "test"))])
            before = theta
        return values

    def plane(self) -> np.ndarray:
        """Loss and accuracy on the test images over the plane of the first pair, (rows, columns, 2)."""
        origin, u, v = (ends[0] for ends in self.ends)
        u, v = ({name: theta[name] - origin[name] for name in origin} for theta in (u, v))
        length = _dot(u, u) ** 0.5
        e_x = {name: leaf / length for name, leaf in u.items()}
        along = _dot(v, e_x)
        rest = {name: v[name] - along * e_x[name] for name in v}
        height = _dot(rest, rest) ** 0.5
        e_y = {name: leaf / height for name, leaf in rest.items()}
        margin, n = 0.2, self.sizes.plane_points
        low, high = min(0.0, along), max(length, along)
        xs = np.linspace(low - margin * (high - low), high + margin * (high - low), n)
        ys = np.linspace(-margin * height, height + margin * height, n)
        cells = [
            [self.at({k: origin[k] + float(x) * e_x[k] + float(y) * e_y[k] for k in origin}, ("test",)) for x in xs]
            for y in ys
        ]
        return np.array(cells)


def _dot(a: Tensors, b: Tensors) -> float:
    return float(torch.stack([(a[name] * b[name]).sum() for name in a]).sum())
