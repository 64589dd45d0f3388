"""mcjax: how trained networks are connected, once the permutation symmetry between them is removed.

The names here are those that most users need. The namespaces carry the rest, and each is a page with an example:
`help(mcjax.symmetry)`, `models`, `data`, `training`, `matching`, `curves`, `landscape`, `hessian`, `strings`,
`constructions`, `permutation_points`, `plotting` and `runs`.

Release notes, 0.2. The layout and the names are new. Run folders of 0.1 cannot be resumed.

Results that changed: PAM tries two rates and parts of the way to a permutation, and `PamConfig.preset("published")` is
the paper's scheme. Where fewer examples than all are used, they are one from each of as many equal parts. Contraction
and epsilon of noise stability count pooling, and the search of dropout stability takes factors below 1. GoogLeNet
pools twice, as its published code does, and VGGs average their last map, which changes nothing for images of 32x32.

What is trained on is a `Task` in all of it: `supervised(model, data)`, or `Task(loss, train, test)` for any loss.

Names that left the top are in the namespaces: `mcjax.strings.sample_string`, `mcjax.hessian.classify_point`,
`mcjax.constructions.dropout_path`, `mcjax.permutation_points.permutation_path`, `mcjax.symmetry.project_birkhoff`,
`mcjax.training.spawn`, `mcjax.landscape.noise_stability`, and so on.

New: examples may be batches from the host, for data larger than memory, from any loader or generator function
(`data.Stream`). `task.with_examples(train=loader)` is a task with other examples, `task.load(train=10_000)` one with
arrays of the first of them.

`train_endpoints` of one key is one network, without a leading axis. `from_flax(..., outputs=returned -> array)` selects
what a model returns. `recorder=Recorder()` shows the progress of any fit. `data.from_arrays` takes floats, and the mean
and std by which a network sees pixels. `PathMetrics.stored` has the ends by the batch statistics that they hold.

What cannot be scored, matched or kept is refused: labels that are no classes, numbers that are not finite, damaged
checkpoints. An accuracy of outputs that are NaN is NaN. `InputWarning` says what is probably not meant: images in other
units, stale statistics, running statistics among the parameters, a checkpoint without a checksum.

Gone: `Model.convolutions` and `Task.convolutions`, which programs find out themselves, and the stepping of epochs from
the host.

Modules:
    paths.curves, paths.knots                     curves.curve, curves.polyline
    paths.pam, paths.half_steps                   curves.pam
    paths.permutation_step, .rounding, .grid      curves.pam_step
    paths.strings, .families, .strand, ...        strings
    paths.dropout*, .moves, .linear_networks,     constructions
      .wide_networks, .counterexamples
    paths.permutation_points, .mergers, ...       permutation_points
    landscape.curvature, .lanczos, ...            hessian
    symmetry.infer, .units, .walk, ...            symmetry.infer
    report, checkpoint, training.recorder         runs
    compiling, processes, training.mesh,          runtime
      models.convolution

Functions of a task:
    f(model, ..., data), f(key, model, ..., data)  f(task, ...), f(key, task, ...)
    evaluate(...) -> Metrics(loss, accuracy)      evaluate(task, theta) -> ({"loss": ...}, {...})
    PathMetrics.train_loss, ...                   the same, read from PathMetrics.values
    match_activations(model, a, b, images)        match_activations(task, a, b, examples=)
    calibration_images=, images=                  calibration_examples=, examples=
    accuracy of a regression                      "error", the mean absolute error

Configurations, composed:
    TrainConfig(learning_rate=, schedule=, ...)   TrainConfig(optimizer=SGD(learning_rate, schedule, ...))
    TrainConfig(optimizer="adam")                 TrainConfig(optimizer=optax.adam(1e-3)), or any other
    TrainConfig(augmentation=)                    supervised(model, data, augmentation=)
    PamConfig(epochs=, permutation_epochs=, ...)  PamConfig(curve=FitConfig(...),
                                                    permutation=curves.PermutationFitConfig(...))
    PamFit.proximal                               PamFit.distance; the term is distance^2 / (2 nu)
    StringConfig(epochs=, of=, on=, ...)          strings.StringConfig(training=TrainConfig(...),
                                                    criterion=Criterion(metric, split, ...))
    EndpointStep, CurveStep, PermutationStep, ... training.endpoint_fit, curves.curve_fit, curves.permutation_fit,
                                                    matching.straight_through_fit, strings.bead_fit

Names:
    Criterion(of=, on=)                           Criterion(metric=, split=)
    barrier(metrics, of=)                         barrier(metrics, metric=)
    recalibrate(model, thetas, data)              reestimate(task, theta): one network or many
    reestimate(model, theta, images, ...)         training.estimate_statistics
    evaluate_path(recalibrate=), plane(...)       evaluate_path(reestimate=), plane(...)
    WeightMatch, StraightThroughMatch             Match(P, objective, info)
    match.correlation, match.restarts, ...        match.info["correlation"], match.info["restarts"], ...
    through(knots)                                curves.Polyline(knots).path
    evolve_string(fall=), Family                  strings.train_string(level_factor=), strings.TrainedString
    StringConfig(points=, certify=)               StringConfig(scan_points=, verification_density=)
    String.born, String.where                     String.depths, String.peaks
    dropped_out                                   constructions.drop_units
    plotting.dependences, .alternation            plotting.against_parameter, .pam_objective
    permutation_point_count, _ratio               permutation_points.count, .ratio
    permutation_point_lower_bound, _growth        permutation_points.ratio_lower_bound, .ratio_growth
    permute_units_at                              permutation_points.permute_units
    PermutationConfig(bump=, bounded=, stop=)     PermutationConfig(rise_tolerance=, hold_output_norm=,
                                                    require_convergence=)
    curve_signature, spectrum                     landscape.correlation_signature, landscape.path_spectrum
    direction_of_improvement                      hessian.is_direction_of_improvement
    extreme_eigenpairs(of=), spectral_density     extreme_eigenpairs(curvature=), spectral_density(curvature=)
    training.full_batch_loss                      hessian.full_batch_loss, still full_batch_loss at the top
    minimise (training.newton)                    hessian.newton.trust_region_newton
    symmetry.declare                              symmetry.layer_specs
    Recorder(progress=callable)                   Recorder(progress=runs.Progress(...))
    python -m experiments.string_sampling --on    --split
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

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
from mcjax.errors import InputError, InputWarning, RunError
from mcjax.hessian import full_batch_loss
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
from mcjax.training import (
    SGD,
    Task,
    TrainConfig,
    evaluate,
    reestimate,
    supervised,
    train_endpoints,
)

try:
    __version__ = version("mcjax")
except PackageNotFoundError:
    __version__ = "unknown"


def __getattr__(name: str) -> ModuleType:
    # Matplotlib takes a second to import, so that this namespace is imported when it is used.
    if name == "plotting":
        return import_module("mcjax.plotting")
    raise AttributeError(f"module 'mcjax' has no attribute {name!r}")


__all__ = [
    "SGD",
    "Augmentation",
    "Axis",
    "Curve",
    "Dataset",
    "FitConfig",
    "InputError",
    "InputWarning",
    "Match",
    "Model",
    "PamConfig",
    "PathMetrics",
    "PermutationSpec",
    "Recorder",
    "RunError",
    "SpecError",
    "Task",
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
    "plotting",
    "polygonal_chain",
    "random_permutation",
    "reestimate",
    "repair",
    "runs",
    "strings",
    "supervised",
    "symmetry",
    "train_endpoints",
    "training",
    "trees",
]
