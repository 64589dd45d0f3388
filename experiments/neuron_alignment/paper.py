"""The numbers of the paper, which the tables show beside ours.

The paper is "Optimizing Loss Landscape Connectivity via Neuron Alignment", a submission to ICLR 2020; its later version
(Tatro et al., NeurIPS 2020, "Optimizing Mode Connectivity via Neuron Alignment") has other experiments, whose numbers
are those of the page of its code (github.com/IBM/NeuronAlignment): 250 epochs for a network and for a curve.

Mean and standard deviation over 6 pairs of networks on CIFAR-10, 3 on CIFAR-100 and STL-10, after 250
epochs for a network and 200 for a curve (160 for one of PAM's). Accuracies in percent, losses in nats.
"""

from collections.abc import Iterator, Sequence

SCHEMES = {"descent": "PAM", "published": "published PAM"}
"""The schemes of PAM, and how the classes of their curves are named."""
SETS = ("cifar10", "cifar100", "stl10")
LATER_SETS = ("cifar10", "cifar100", "tiny_imagenet")
ENSEMBLES = ("ends", "unaligned", "aligned", "independent")


Numbers = dict[str, dict[str, float]]
"""A mean and a standard deviation by name."""


def _row(text: str, names: Sequence[str] = SETS) -> Numbers:
    """'73.8 0.4 38.8 0.2 64.1 0.3', a mean and a standard deviation a data set."""
    values = list(map(float, text.split()))
    pairs = zip(values[::2], values[1::2], strict=True)
    return {name: {"mean": mean, "std": std} for name, (mean, std) in zip(names, pairs, strict=True)}


# Table 1: parameters (for 10 classes, of TinySix for 100), depth, test accuracy of the networks.
NETWORKS = {
    "tinysix": (34_596, 6, _row("77.0 0.3 40.1 0.3 65.1 0.1")),
    "tinyten": (86_778, 10, _row("88.7 0.2 58.1 0.5 73.8 0.3") | _row("34.2 0.2", ["tiny_imagenet"])),
    "resnet32": (466_906, 32, _row("92.9 0.2 67.1 0.5 76.5 0.3") | _row("50.2 0.0", ["tiny_imagenet"])),
    "vgg16": (15_253_578, 16, _row("93.1 0.2 70.9 0.3 72.5 1.5")),
    # The later paper's, with two auxiliary outputs.
    "googlenet": (10_240_000, 22, _row("93.4 0.0 73.2 0.4 51.6 0.2", LATER_SETS)),
}

# Tables 2, 4 and 5, side by side: mean and lowest test accuracy along the curve, and train loss, each for all SETS.
_CURVES = """
tinysix  unaligned     | 73.8 0.4 38.8 0.2 64.1 0.3 | 71.6 0.6 35.9 2.3 62.6 0.6 | 0.896 0.008 2.636 0.008 0.931 0.014
tinysix  PAM unaligned | 75.8 0.4 41.2 0.3 64.5 0.3 | 74.8 0.5 39.8 0.2 63.4 0.4 | 0.826 0.006 2.501 0.015 0.914 0.010
tinysix  PAM aligned   | 76.3 0.3 41.4 0.5 65.4 0.2 | 75.7 0.4 39.9 0.3 64.8 0.1 | 0.813 0.008 2.489 0.018 0.863 0.005
tinysix  aligned       | 76.3 0.3 41.6 0.5 65.4 0.2 | 75.6 0.5 39.9 0.2 64.8 0.1 | 0.817 0.006 2.490 0.018 0.864 0.004
tinyten  unaligned     | 87.2 0.2 56.0 0.2 73.7 0.4 | 85.0 1.2 53.2 1.1 72.3 0.6 | 0.460 0.004 1.839 0.010 0.479 0.018
tinyten  PAM unaligned | 87.9 0.2 57.1 0.1 73.9 0.3 | 87.2 0.3 56.1 0.1 72.6 0.5 | 0.419 0.005 1.733 0.013 0.469 0.000
tinyten  PAM aligned   | 88.6 0.1 58.5 0.2 74.0 0.3 | 88.0 0.1 57.7 0.3 73.5 0.3 | 0.387 0.003 1.662 0.007 0.393 0.007
tinyten  aligned       | 88.6 0.1 58.7 0.2 74.1 0.3 | 88.6 0.1 57.7 0.4 73.4 0.3 | 0.392 0.003 1.693 0.008 0.389 0.007
resnet32 unaligned     | 92.4 0.2 66.5 0.2 76.6 0.2 | 91.2 0.7 64.7 0.4 75.7 0.3 | 0.212 0.005 1.124 0.005 0.292 0.007
resnet32 PAM unaligned | 92.5 0.1 66.8 0.1 76.7 0.3 | 91.7 0.3 65.1 1.0 76.0 0.4 | 0.191 0.002 1.093 0.011 0.283 0.001
resnet32 PAM aligned   | 92.5 0.1 66.9 0.2 76.9 0.2 | 91.8 0.2 65.3 0.6 76.1 0.3 | 0.192 0.002 1.086 0.011 0.283 0.001
resnet32 aligned       | 92.9 0.2 67.7 0.1 76.7 0.2 | 92.6 0.2 66.6 0.1 76.0 0.2 | 0.180 0.002 1.011 0.002 0.256 0.002
vgg16    unaligned     | 93.0 0.1 70.7 0.1 74.5 1.0 | 92.6 0.1 69.6 0.4 71.3 1.8 | 0.212 0.002 0.710 0.004 0.372 0.029
vgg16    aligned       | 93.3 0.1 71.6 0.1 74.7 0.8 | 93.0 0.1 70.8 0.1 71.3 1.8 | 0.198 0.001 0.676 0.005 0.366 0.015
"""


# The later paper's mean and lowest test accuracy along the curve, for all LATER_SETS.
_LATER = """
tinyten   unaligned     | 87.4 0.1 56.0 0.2 32.5 0.1 | 82.8 0.5 53.2 1.1 30.0 0.3
tinyten   PAM unaligned | 87.6 0.1 57.3 0.2 33.6 0.1 | 84.0 0.3 55.9 0.9 32.5 0.1
tinyten   PAM aligned   | 88.4 0.1 58.8 0.1 34.2 0.1 | 87.6 0.2 57.7 0.3 33.4 0.2
tinyten   aligned       | 88.5 0.1 58.7 0.2 34.4 0.1 | 87.8 0.1 57.7 0.4 33.7 0.1
resnet32  unaligned     | 92.2 0.1 66.5 0.2 48.2 0.1 | 89.1 0.2 64.7 0.4 45.2 0.1
resnet32  PAM unaligned | 92.4 0.1 67.0 0.1 48.5 0.1 | 89.9 0.2 66.1 0.1 46.6 0.1
resnet32  PAM aligned   | 92.7 0.0 67.6 0.4 49.2 0.4 | 92.1 0.1 66.8 0.1 47.9 0.6
resnet32  aligned       | 92.7 0.1 67.7 0.1 49.5 0.3 | 92.2 0.0 66.6 0.1 48.8 0.4
googlenet unaligned     | 93.3 0.0 73.1 0.4 51.9 0.1 | 92.1 0.1 69.8 0.3 48.7 0.4
googlenet aligned       | 93.4 0.0 73.4 0.3 52.4 0.2 | 93.1 0.0 72.9 0.3 51.4 0.3
"""


def _curves(text: str, sets: Sequence[str]) -> Iterator[dict[tuple[str, str], Numbers]]:
    """For each of the tables that stand side by side: model and class of curves -> its row."""
    rows = [line.split(" | ") for line in text.strip().splitlines()]
    names = [tuple(part.strip() for part in row[0].split(maxsplit=1)) for row in rows]
    for column in range(1, len(rows[0])):
        yield {(model, curve): _row(row[column], sets) for (model, curve), row in zip(names, rows, strict=True)}


_OF = ("test_accuracy_mean", "test_accuracy_min", "last_train_loss")
CURVES = dict(zip(_OF, _curves(_CURVES, SETS), strict=True))
"""Measure of the curves, as results.json names it -> model and class of curves -> the row of its table."""
LATER = dict(zip(_OF[:2], _curves(_LATER, LATER_SETS), strict=True))
"""The same for the later paper."""

# Table 3: accuracy of ensembles, on CIFAR-100 alone: the ends; ends and middle of either curve; three networks.
ENSEMBLE_ACCURACY = {
    (model, name): {"cifar100": number}
    for model, row in (
        ("tinysix", "41.80 0.15 42.66 0.48 43.82 0.78 42.05 0.26"),
        ("tinyten", "61.23 0.36 61.39 0.25 62.40 0.30 61.76 0.01"),
        ("resnet32", "71.35 0.30 72.13 0.12 72.33 0.12 72.03 0.08"),
        ("vgg16", "74.00 0.17 74.69 0.22 74.91 0.10 74.88 0.06"),
    )
    for name, number in _row(row, ENSEMBLES).items()
}
