"""Images a second of mcjax beside a plain PyTorch loop of the same network, both measured in this run.

    pip install -e '.[bench]'
    python -m experiments.benchmark --data cifar10

An endpoint epoch and a curve-fit epoch of TinyTen (or TinySix) at batch 128. The PyTorch loops do what
the public codes do: one step a call, and for the curve one t a batch, the point on the curve put
together from both ends and the control point, and its gradient sent back. Data are normalised before
the clock starts for PyTorch, inside the compiled step for mcjax. Rounds alternate between the two and
medians are taken, so that a noisy machine is noisy for both. Two cores: about five minutes.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from mcjax import Augmentation, FitConfig, TrainConfig, bezier, data, models
from mcjax.models.convnets import TINYSIX, TINYTEN
from mcjax.paths.fit import CurveStep, Ends
from mcjax.report import table
from mcjax.training.endpoints import EndpointStep
from mcjax.training.loop import _epoch_of_many

BATCH = 128
LAYERS = {"tinyten": TINYTEN, "tinysix": TINYSIX}


@dataclass(frozen=True)
class Benchmark:
    """What to measure."""

    data: str = "cifar10"
    """A data set of 32x32 colour images, as `mcjax train` takes it."""
    model: Literal["tinysix", "tinyten"] = "tinyten"
    """The network."""
    steps: int = 20
    """Batches of 128 an epoch: the first so many of the training images."""
    rounds: int = 7
    """Times that every epoch is measured; medians are reported."""
    out: Path | None = None
    """Where to write the numbers as JSON (None: nowhere)."""


def main(config: Benchmark) -> None:
    """Measure, print a table, and write the numbers."""
    dataset = jax.device_put(data.load(config.data).take(config.steps * BATCH))
    rivals = {
        "endpoint epoch": (_endpoint(config, dataset, False), _torch_endpoint(config, dataset)),
        "endpoint epoch, augmented": (_endpoint(config, dataset, True), None),
        "curve-fit epoch": (_curve(config, dataset, False), _torch_curve(config, dataset)),
        "curve-fit epoch, augmented": (_curve(config, dataset, True), None),
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    for round_ in range(config.rounds + 1):
        for name, pair in rivals.items():
            for who, run in zip(("mcjax", "pytorch"), pair, strict=True):
                if run is None:
                    continue
                began = time.perf_counter()
                run()
                if round_:  # the first is compilation
                    seconds.setdefault((name, who), []).append(time.perf_counter() - began)
    images = config.steps * BATCH
    rates = {key: images / statistics.median(values) for key, values in seconds.items()}
    rows = []
    for name in rivals:
        peer = rates.get((name, "pytorch")) or rates[name.removesuffix(", augmented"), "pytorch"]
        rows.append([name, f"{rates[name, 'mcjax']:,.0f}", f"{peer:,.0f}", f"{rates[name, 'mcjax'] / peer:.2f}"])
    print(f"{config.model}, batch {BATCH}, {config.data}, on {jax.devices()[0].device_kind}")
    print(table(["", "mcjax images/s", "PyTorch images/s", "ratio"], rows))
    if config.out:
        numbers = {
            f"{name}, {who}": {"images_per_s": rates[name, who], "seconds": seconds[name, who]} for name, who in rates
        }
        config.out.write_text(json.dumps(numbers, indent=1))


def _augmentation(on: bool) -> Augmentation:
    return Augmentation() if on else Augmentation.none()


def _endpoint(config: Benchmark, dataset: data.Dataset, augmented: bool) -> Callable[[], None]:
    model = models.create(config.model)
    step = EndpointStep(model, TrainConfig(batch_size=BATCH, augmentation=_augmentation(augmented)), config.steps)
    keys = jax.random.split(jax.random.key(0), 1)
    states = jax.vmap(step.init)(keys)
    return lambda: jax.block_until_ready(_epoch_of_many(step, dataset, {}, states, keys, 0))


def _curve(config: Benchmark, dataset: data.Dataset, augmented: bool) -> Callable[[], None]:
    model = models.create(config.model)
    settings = FitConfig(batch_size=BATCH, augmentation=_augmentation(augmented))
    step = CurveStep(model, bezier(model.spec), settings, config.steps)
    ends = Ends(*(jax.vmap(model.init)(jax.random.split(jax.random.key(seed), 1)) for seed in (1, 2)))
    states, keys = jax.vmap(step.init)(ends.theta_1), jax.random.split(jax.random.key(0), 1)
    return lambda: jax.block_until_ready(_epoch_of_many(step, dataset, ends, states, keys, 0))


def _torch_network(config: Benchmark) -> Any:
    from torch import nn

    layers: list[Any] = []
    channels = 3
    for layer in LAYERS[config.model]:
        convolution = nn.Conv2d(channels, layer.features, layer.size, layer.stride, layer.padding)
        layers += [convolution, nn.BatchNorm2d(layer.features), nn.ReLU()]
        channels = layer.features
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def _torch_data(config: Benchmark, dataset: data.Dataset) -> tuple[Any, Any]:
    import torch

    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    images = np.asarray(data.normalize(dataset.train_images, dataset.mean, dataset.std)).transpose(0, 3, 1, 2)
    labels = torch.tensor(np.asarray(dataset.train_labels), dtype=torch.long, device=device)
    return torch.tensor(images.copy(), device=device), labels


def _torch_endpoint(config: Benchmark, dataset: data.Dataset) -> Callable[[], None]:
    import torch
    from torch.nn.functional import cross_entropy

    images, labels = _torch_data(config, dataset)
    network = _torch_network(config).to(images.device)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def run() -> None:
        for batch in torch.randperm(len(labels), device=images.device).split(BATCH):
            optimizer.zero_grad()
            loss = cross_entropy(network(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
        loss.item()

    return run


def _torch_curve(config: Benchmark, dataset: data.Dataset) -> Callable[[], None]:
    import torch
    from torch.nn.functional import cross_entropy

    images, labels = _torch_data(config, dataset)
    networks = [_torch_network(config).to(images.device) for _ in range(2)]
    ends = [{name: p.detach() for name, p in network.named_parameters()} for network in networks]
    bend = {name: torch.zeros_like(p, requires_grad=True) for name, p in ends[0].items()}
    optimizer = torch.optim.SGD(bend.values(), 0.1, momentum=0.9, nesterov=True)

    def run() -> None:
        for batch in torch.randperm(len(labels), device=images.device).split(BATCH):
            t = float(torch.rand(()))
            point = {n: (1 - t) * ends[0][n] + t * ends[1][n] + 2 * t * (1 - t) * bend[n] for n in bend}
            optimizer.zero_grad()
            loss = cross_entropy(torch.func.functional_call(networks[0], point, (images[batch],)), labels[batch])
            loss = loss + 2.5e-4 * sum((p * p).sum() for p in point.values())
            loss.backward()
            optimizer.step()
        loss.item()

    return run


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
