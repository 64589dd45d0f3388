"""The networks of mcjax's models in PyTorch, layer by layer, and their variables and permutations there.

Modules have the names that the layers have in mcjax, so that variables can be copied over.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from mcjax import trees
from mcjax.symmetry import PermutationSpec

Tensors = dict[str, torch.Tensor]


class Layer(NamedTuple):
    """A convolution, its norm and activation.

    Attributes:
        size: pixels of the kernel along each axis.
        stride: pixels between its places.
        padding: pixels of zeros on every side.
        pool: whether 2x2 max pooling follows.
    """

    size: int = 3
    stride: int = 1
    padding: int = 1
    pool: bool = False


LAYERS = {
    "tinyten": (
        Layer(), Layer(), Layer(stride=2), Layer(), Layer(), Layer(stride=2), Layer(padding=0), Layer(1, padding=0),
    ),
    "vgg16": tuple(Layer(pool=i + 1 == repeat) for repeat in (2, 2, 3, 3, 3) for i in range(repeat)),
}  # fmt: skip
ORDER = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
"""Number of axes of a leaf -> their order in PyTorch: (h, w, in, out) becomes (out, in, h, w)."""
NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class Units(nn.ReLU):
    """The nonlinearity whose outputs are the units of a group."""

    def __init__(self, group: str) -> None:
        super().__init__()
        self.group = group


class Flatten(nn.Module):
    """Feature maps as vectors, channels last as in mcjax."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x.flatten(1)


class Block(nn.Module):
    """Two convolutions around a skip connection."""

    def __init__(self, channels: int, features: int, number: int, trunk: str) -> None:
        super().__init__()
        stride = 1 if channels == features else 2
        self.Conv_0 = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
        self.BatchNorm_0 = nn.BatchNorm2d(features)
        self.inner = Units(f"block_{number}")
        self.Conv_1 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.BatchNorm_1 = nn.BatchNorm2d(features)
        self.outer = Units(trunk)
        self.projection = channels != features
        if self.projection:
            self.Conv_2 = nn.Conv2d(channels, features, 1, stride, bias=False)
            self.BatchNorm_2 = nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.inner(self.BatchNorm_0(self.Conv_0(x)))
        skipped = self.BatchNorm_2(self.Conv_2(x)) if self.projection else x
        return self.outer(skipped + self.BatchNorm_1(self.Conv_1(inner)))


def network(name: str, theta: trees.Tree) -> nn.Sequential:
    """The network of mcjax's `name`, with the variables theta."""
    shapes = trees.shapes(theta)
    parts: dict[str, nn.Module] = {}
    if name == "resnet32":
        channels = shapes["params/Conv_0/kernel"][-1]
        parts["Conv_0"] = nn.Conv2d(shapes["params/Conv_0/kernel"][2], channels, 3, 1, 1, bias=False)
        parts |= {"BatchNorm_0": nn.BatchNorm2d(channels), "trunk_0": Units("trunk_0")}
        for i in range(15):
            features = shapes[f"params/Block_{i}/Conv_1/kernel"][-1]
            parts[f"Block_{i}"] = Block(channels, features, i, f"trunk_{i // 5}")
            channels = features
    for i, layer in enumerate(LAYERS.get(name, ())):
        *_, channels, features = shapes[f"params/Conv_{i}/kernel"]
        parts[f"Conv_{i}"] = nn.Conv2d(channels, features, layer.size, layer.stride, layer.padding)
        parts |= {f"BatchNorm_{i}": nn.BatchNorm2d(features), f"conv_{i}": Units(f"conv_{i}")}
        parts |= {f"pool_{i}": nn.MaxPool2d(2)} if layer.pool else {}
    parts |= {"mean": nn.AdaptiveAvgPool2d(1)} if name in ("tinyten", "resnet32") else {}
    parts["flatten"] = Flatten()
    dense = [shapes[f"params/Dense_{i}/kernel"] for i in range(sum("/Dense_" in leaf for leaf in shapes) // 2)]
    for i, (inputs, outputs) in enumerate(dense):
        last = i + 1 == len(dense)
        parts |= {f"dropout_{i}": nn.Dropout(0.5)} if name == "vgg16" and not last else {}
        parts[f"Dense_{i}"] = nn.Linear(inputs, outputs)
        parts |= {} if last else {f"dense_{i}": Units(f"dense_{i}")}
    made = nn.Sequential()
    for part, module in parts.items():
        made.add_module(part, module)
    missing = made.load_state_dict(tensors(theta, torch.device("cpu")), strict=False)
    if missing.unexpected_keys or any(not key.endswith("num_batches_tracked") for key in missing.missing_keys):
        raise ValueError(f"another architecture than {name}: {missing}")
    return made


def name_of(leaf: str) -> str:
    """`params/Block_0/Conv_0/kernel` as `Block_0.Conv_0.weight`."""
    _, *modules, last = leaf.split("/")
    return ".".join([*modules, NAMES[last]])


def tensors(tree: trees.Tree, device: torch.device) -> Tensors:
    """The leaves of a tree by their names and in their layouts in PyTorch."""
    leaves = {name_of(name): np.asarray(leaf) for name, leaf in trees.flatten(tree).items()}
    return {name: torch.tensor(leaf.transpose(ORDER[leaf.ndim]), device=device) for name, leaf in leaves.items()}


def permuted(spec: PermutationSpec, P: Tensors, theta: Tensors) -> Tensors:
    """P theta for soft P, of the leaves that theta holds."""
    moved = dict(theta)
    for name, entries in spec.axes.items():
        if (leaf := name_of(name)) not in theta:
            continue
        for position, entry in enumerate(entries):
            at = ORDER[len(entries)].index(position)
            for axis in () if entry is None else entry if isinstance(entry, tuple) else (entry,):
                units = moved[leaf].unflatten(at, (axis.outer, -1, axis.inner))
                mixed = torch.tensordot(P[axis.group], units, dims=([1], [at + 1])).movedim(0, at + 1)
                moved[leaf] = mixed.flatten(at, at + 2)
    return moved
