"""mcjax: how trained networks are connected, once the permutation symmetry between them is removed."""

from importlib.metadata import PackageNotFoundError, version

from mcjax import (
    constructions,
    curves,
    data,
    hessian,
    landscape,
    matching,
    models,
    permutation_points,
    runs,
    strings,
    symmetry,
    training,
    trees,
)
from mcjax.curves import Curve, FitConfig, PamConfig, bezier, fit_curve, fit_pam, linear, polygonal_chain
from mcjax.data import Augmentation, Dataset
from mcjax.errors import InputError, RunError
from mcjax.landscape import PathMetrics, barrier, ensemble_accuracy, evaluate_path, plane, repair
from mcjax.matching import Match, match_activations, match_straight_through, match_weights, merge
from mcjax.models import Model
from mcjax.runs import Recorder, checkpoint
from mcjax.runtime import make_mesh
from mcjax.symmetry import (
    Axis,
    PermutationSpec,
    SpecError,
    check_invariance,
    compose,
    identity_permutation,
    infer_spec,
    invert,
    nearest_permutation,
    permute,
    random_permutation,
)
from mcjax.training import TrainConfig, evaluate, full_batch_loss, reestimate, train_endpoints

try:
    __version__ = version("mcjax")
except PackageNotFoundError:
    __version__ = "unknown"

__all__ = [
    "Augmentation",
    "Axis",
    "Curve",
    "Dataset",
    "FitConfig",
    "InputError",
    "Match",
    "Model",
    "PamConfig",
    "PathMetrics",
    "PermutationSpec",
    "Recorder",
    "RunError",
    "SpecError",
    "TrainConfig",
    "barrier",
    "bezier",
    "check_invariance",
    "checkpoint",
    "compose",
    "constructions",
    "curves",
    "data",
    "ensemble_accuracy",
    "evaluate",
    "evaluate_path",
    "fit_curve",
    "fit_pam",
    "full_batch_loss",
    "hessian",
    "identity_permutation",
    "infer_spec",
    "invert",
    "landscape",
    "linear",
    "make_mesh",
    "match_activations",
    "match_straight_through",
    "match_weights",
    "matching",
    "merge",
    "models",
    "nearest_permutation",
    "permutation_points",
    "permute",
    "plane",
    "polygonal_chain",
    "random_permutation",
    "reestimate",
    "repair",
    "runs",
    "strings",
    "symmetry",
    "train_endpoints",
    "training",
    "trees",
]
