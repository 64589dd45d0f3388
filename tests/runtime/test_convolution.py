"""The CPU's lowering of convolutions: against sums by numpy and against JAX's own lowering, for all derivatives."""

import importlib.util

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.export import export, symbolic_shape
from jax.interpreters import mlir
from jax.sharding import AxisType, PartitionSpec
from modules.convolutions import LAYOUTS, ONCE, Case, convolutions_in, lowered, lowering_of_jax, random_case

from mcjax.runtime import convolution
from mcjax.runtime.compiling import compiler_options, jit
from mcjax.runtime.convolution import materialize

AROUND = ((1, 1), (1, 1))
ORDINARY = {
    "same": Case((2, 8, 8, 3), (3, 3, 3, 4), ONCE, AROUND),
    "strides": Case((2, 7, 8, 3), (3, 3, 3, 4), (2, 2), AROUND),
    "strides, valid": Case((2, 7, 7, 2), (3, 3, 2, 1), (2, 2)),
    "strides without a rest": Case((1, 9, 9, 2), (3, 3, 2, 5), (3, 3)),
    "strides beyond the kernel": Case((2, 7, 8, 2), (1, 2, 2, 3), (3, 3)),
    "one position": Case((3, 9, 6, 1), (1, 1, 1, 2)),
    "patches": Case((2, 8, 9, 3), (2, 3, 3, 4), (2, 3)),
    "patches, a rest and padding": Case((2, 8, 9, 2), (3, 2, 2, 3), (3, 2), ((1, 1), (2, 0))),
    "patches, cut off": Case((2, 9, 9, 2), (2, 4, 2, 3), (2, 4), ((-1, 1), (1, -2)), layout=LAYOUTS[1]),
    "unequal": Case((2, 11, 10, 2), (5, 4, 2, 3), (3, 2), ((0, 3), (2, 1))),
    "cut off": Case((2, 9, 8, 2), (3, 3, 2, 2), (2, 1), ((-1, 2), (-2, -1))),
    "beyond the images": Case((2, 3, 8, 2), (3, 3, 2, 2), ONCE, ((-3, 5), (4, -1))),
    "one pixel": Case((2, 1, 1, 2), (3, 3, 2, 2), ONCE, AROUND),
    "few pixels": Case((2, 3, 2, 2), (3, 3, 2, 3), (2, 1), ((2, 1), (1, 3))),
    "as many pixels as taps": Case((2, 1, 9, 2), (3, 3, 2, 2), ONCE, AROUND),
    "fewer pixels than taps, but not few": Case((2, 5, 5, 2), (6, 6, 2, 3), (1, 2), ((3, 2), (-1, 4))),
    "few outputs, many channels": Case((2, 3, 4, 10), (3, 3, 10, 14), ONCE, AROUND),
    "many outputs": Case((2, 9, 9, 2), (2, 3, 2, 3)),
    "large kernel": Case((2, 10, 10, 2), (9, 9, 2, 3)),
    "large kernel, strides": Case((2, 21, 21, 1), (9, 9, 1, 2), (2, 2)),
    "other layout": Case((2, 8, 7, 3), (3, 3, 3, 4), ONCE, AROUND, layout=LAYOUTS[1]),
    "other layout, strides": Case((2, 8, 7, 3), (3, 3, 3, 4), (2, 3), AROUND, layout=LAYOUTS[1]),
    "mixed layout": Case((2, 9, 9, 3), (2, 2, 3, 4), (1, 2), AROUND, layout=LAYOUTS[2]),
    "images last": Case((2, 9, 9, 3), (3, 3, 3, 4), ONCE, AROUND, layout=LAYOUTS[3]),
}


def drawn(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def sines(case):
    """The gradients of the sum of the sines of a convolution."""
    return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(case(x, kernel))), (0, 1))


def close(found, expected, rtol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, rtol * 10), found, expected)


def checked(cases):
    """Compare value, gradients, and their forward derivatives with the sums, all cases in one program."""
    drawings = [drawn(*2 * (case.images, case.kernel), seed=i) for i, case in enumerate(cases)]
    given = [case.stored(x, k) + case.stored(dx, dk) for case, (x, k, dx, dk) in zip(cases, drawings, strict=True)]

    def each(given):
        return [
            (case(x, k), jax.jvp(case, (x, k), (dx, dk))[1], *jax.jvp(sines(case), (x, k), (dx, dk)))
            for case, (x, k, dx, dk) in zip(cases, given, strict=True)
        ]

    with jax.enable_x64(True):
        results = jax.jit(each)(given)
    for case, (x, k, dx, dk), (value, forward, gradients, tangents) in zip(cases, drawings, results, strict=True):
        y, dy = case.value(x, k), case.value(dx, k) + case.value(x, dk)
        close([value, forward], [case.stored(x, k, each)[2] for each in (y, dy)])
        close(gradients, tuple(case.stored(*case.pullback(x, k, np.cos(y)))))
        along = case.pullback(x, k, -np.sin(y) * dy)
        (of_dx, _), (_, of_dk) = case.pullback(x, dk, np.cos(y)), case.pullback(dx, k, np.cos(y))
        close(tangents, tuple(case.stored(along[0] + of_dx, along[1] + of_dk)))


@pytest.mark.parametrize("name", ORDINARY)
def test_value_gradients_and_their_derivatives(name):
    checked([ORDINARY[name]])


@pytest.mark.parametrize("seed", range(3))
def test_random_convolutions(seed):
    rng = np.random.default_rng(seed)
    checked([random_case(rng) for _ in range(12)])


@pytest.mark.parametrize("name", ORDINARY)
def test_what_xla_is_slow_at_is_not_in_the_program(name):
    """Other layouts, dilated images, images smaller than the kernel; what is fast as it is stays JAX's own."""
    case = ORDINARY[name]
    arrays = [np.zeros(each.shape) for each in case.stored(*drawn(case.images, case.kernel))]
    for fn in (case, sines(case), lambda x, k: jax.jvp(sines(case), (x, k), (x, k))):
        for numbers, window, images, kernel in convolutions_in(lowered(fn, *arrays)):
            assert numbers == "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
            assert "lhs_dilate = [1, 1]" in window
            assert np.prod(images[1:3]) >= np.prod(kernel[:2])
    with lowering_of_jax():
        own = lowered(case, *arrays)
    fast = case.layout == LAYOUTS[0] and np.prod(case.images[1:3]) >= np.prod(case.kernel[:2])
    assert (lowered(case, *arrays) == own) == fast


def test_inside_scan_and_under_vmap():
    case = ORDINARY["strides"]
    xs, ks = drawn((3, *case.images), (3, *case.kernel))

    def gradients(x, k):
        value, pull = jax.vjp(case, x, k)
        return value, *pull(jnp.cos(value))

    def expected(xs, ks):
        each = [(value := case.value(x, k), *case.pullback(x, k, np.cos(value))) for x, k in zip(xs, ks, strict=True)]
        return tuple(map(np.stack, zip(*each, strict=True)))

    def scanned(xs, ks):
        return lax.scan(lambda carry, xk: (carry, gradients(*xk)), 0.0, (xs, ks))[1]

    with jax.enable_x64(True):
        for run in (scanned, jax.vmap(gradients)):
            close(jax.jit(run)(xs, ks), expected(xs, ks))
        # Images shared, kernels many, as when several networks see one batch; and the other way round.
        close(jax.jit(jax.vmap(gradients, (None, 0)))(xs[0], ks), expected([xs[0]] * 3, ks))
        close(jax.jit(jax.vmap(gradients, (0, None)))(xs, ks[0]), expected(xs, [ks[0]] * 3))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ["same", "strides", "few pixels", "many outputs", "large kernel"])
def test_dtypes_stay(name, dtype):
    case = ORDINARY[name]
    arrays = drawn(case.images, case.kernel, case.value(*drawn(case.images, case.kernel)).shape)
    with jax.enable_x64(True):
        x, k, g = (jnp.asarray(array, dtype) for array in arrays)
        value, pull = jax.vjp(jax.jit(case), x, k)
        found = (value, *jax.jit(pull)(g))
        assert [each.dtype for each in found] == [dtype] * 3
        x, k, g = (np.asarray(array, float) for array in (x, k, g))
        # Half-precision results are sums that are rounded once.
        error = jnp.finfo(dtype).eps * (2 if jnp.finfo(dtype).bits == 16 else 20)
        for got, expected in zip(found, (case.value(x, k), *case.pullback(x, k, g)), strict=True):
            np.testing.assert_allclose(np.asarray(got, float), expected, 0, error * np.abs(expected).max())


def test_mixed_dtypes_need_not_be_allowed():
    """Half precision is summed in float32 by mcjax's own choice, not by a promotion of the caller's."""
    case = ORDINARY["strides"]
    channels = plain(layout=LAYOUTS[1], feature_group_count=3)
    with jax.numpy_dtype_promotion("strict"):
        for dtype in (jnp.bfloat16, jnp.float32):
            lowered(of_sum(case), *numbered(case, case.images, case.kernel, dtype=dtype)[1])
            lowered(of_sum(channels), *numbered(channels, (2, 3, 5, 5), (3, 1, 3, 3), dtype=dtype)[1])


def test_programs_of_large_strides_and_kernels_stay_short():
    for images, kernel, strides in (
        ((1, 112, 112, 3), (16, 16, 3, 8), (16, 16)),
        ((1, 80, 80, 1), (21, 21, 1, 2), (17, 17)),
        ((1, 60, 60, 1), (20, 20, 1, 2), (2, 2)),
    ):
        fn, args = numbered(of_sum(plain(strides, ((0, 0), (0, 0)))), images, kernel)
        assert lowered(fn, *args).count("stablehlo.") < 200


def test_complex_numbers():
    case = ORDINARY["strides"]
    x, k, *imaginary = drawn(*2 * (case.images, case.kernel))
    x, k = x + 1j * imaginary[0], k + 1j * imaginary[1]
    with jax.enable_x64(True):
        value, pull = jax.vjp(jax.jit(case), x, k)
        close(value, case.value(x, k))
        close(jax.jit(pull)(value), case.pullback(x, k, case.value(x, k)))


def numbered(fn, *shapes, dtype=jnp.float32):
    return fn, [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


def plain(strides=ONCE, padding=AROUND, layout=LAYOUTS[0], **options):
    return lambda x, k: lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=layout, **options)


def of_sum(fn):
    return jax.grad(lambda x, k: jnp.sum(fn(x, k)), (0, 1))


LEFT = {
    "integers": numbered(plain(layout=LAYOUTS[1]), (2, 3, 5, 5), (4, 3, 3, 3), dtype=jnp.int32),
    "a wider result": numbered(
        plain(layout=LAYOUTS[1], preferred_element_type=jnp.float32), (2, 3, 5, 5), (4, 3, 3, 3), dtype=jnp.bfloat16
    ),
    "eight bits of each channel": numbered(
        plain(layout=LAYOUTS[1], feature_group_count=3), (2, 3, 5, 5), (3, 1, 3, 3), dtype=jnp.float8_e4m3fn
    ),
    "eight bits": numbered(plain(layout=LAYOUTS[1]), (2, 3, 5, 5), (4, 3, 3, 3), dtype=jnp.float8_e4m3fn),
    "no images": numbered(of_sum(plain((2, 2))), (0, 5, 5, 3), (3, 3, 3, 4)),
    "no result": numbered(of_sum(plain((2, 2), ((0, 0), (0, 0)))), (2, 2, 2, 3), (3, 3, 3, 4)),
    "no pixels": numbered(plain(lhs_dilation=(2, 2), padding=((2, 2), (2, 2))), (2, 0, 3, 3), (3, 3, 3, 4)),
}


@pytest.mark.parametrize("name", LEFT)
def test_others_are_left_to_jax(name):
    fn, args = LEFT[name]
    text = lowered(fn, *args)
    with lowering_of_jax():
        assert lowered(fn, *args) == text
    assert "stablehlo.convolution" in text


def test_sizes_without_a_number_are_left_to_jax():
    rng = np.random.default_rng(0)
    x, k = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 7, 5, 3), (3, 3, 3, 4)))
    for fn, sizes in ((of_sum(plain((2, 2))), "n, 7, 5, 3"), (plain(), "n, h, 5, 3")):
        shape = jax.ShapeDtypeStruct(symbolic_shape(sizes), jnp.float32)
        chex.assert_trees_all_close(export(jax.jit(fn))(shape, k).call(x, k), fn(x, k), rtol=1e-4)


@pytest.mark.parametrize("platforms", [("cpu",), ("cpu", "tpu"), ("cuda", "cpu")])
def test_exported_for_several_platforms(platforms):
    case = ORDINARY["strides"]
    x, k = drawn(case.images, case.kernel)
    with jax.enable_x64(True):
        exported = export(jax.jit(sines(case)), platforms=platforms)(x, k)
        close(exported.call(x, k), case.pullback(x, k, np.cos(case.value(x, k))))


@pytest.mark.parametrize("platform", ["tpu", "cuda", "rocm"])
@pytest.mark.parametrize("name", ["same", "strides", "few pixels", "other layout, strides"])
def test_other_platforms_have_what_jax_gives_them(name, platform):
    case = ORDINARY[name]
    arrays = [np.zeros(each.shape) for each in case.stored(*drawn(case.images, case.kernel))]
    text = lowered(sines(case), *arrays, platform=platform)
    with lowering_of_jax():
        assert lowered(sines(case), *arrays, platform=platform) == text
    assert "optimization_barrier" not in text


def nested(fn):
    return jax.jit(lambda *args: jax.jit(fn)(*args))


def on_default_device(fn):
    def run(*args):
        with jax.default_device(jax.local_devices(backend="cpu")[-1]):
            return jax.jit(fn)(*args)

    return run


def over_devices(fn):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    images, whole = PartitionSpec("data"), PartitionSpec()
    return jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=(images, whole), out_specs=(images, whole)))


def explicitly_placed(fn):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:1])

    def run(x, k):
        with jax.set_mesh(mesh):
            return jax.jit(fn)(jax.device_put(x, PartitionSpec("data")), jax.device_put(k, PartitionSpec()))

    return run


WAYS = {
    "eagerly": lambda fn: fn,
    "nested": nested,
    "default device": on_default_device,
    "shard_map": over_devices,
    "explicit": explicitly_placed,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["strides", "few pixels", "many outputs"])
def test_the_same_however_it_is_called(name, way):
    case = ORDINARY[name]
    x, k = drawn(case.images, case.kernel)
    with jax.enable_x64(True):
        close(WAYS[way](sines(case))(x, k), case.pullback(x, k, np.cos(case.value(x, k))))


def test_computed_again_in_the_backward_pass():
    case = ORDINARY["strides"]
    x, k = drawn(case.images, case.kernel)
    with jax.enable_x64(True):
        found = jax.jit(jax.grad(jax.checkpoint(lambda x, k: jnp.sum(jnp.sin(case(x, k)))), (0, 1)))(x, k)
        close(found, case.pullback(x, k, np.cos(case.value(x, k))))


@pytest.mark.parametrize("missing", ["the table", "the rule"])
def test_without_jaxs_private_name_its_own_rule_stays(missing, monkeypatch):
    case = ORDINARY["strides"]
    arrays = drawn(case.images, case.kernel)
    with lowering_of_jax():
        expected = lowered(sines(case), *arrays)
        if missing == "the table":
            monkeypatch.delattr(mlir, "_platform_specific_lowerings")
        else:
            monkeypatch.setattr(mlir, "_platform_specific_lowerings", {"cpu": {}})
        spec = importlib.util.spec_from_file_location("another", convolution.__file__)
        another = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(another)
        assert lowered(sines(case), *arrays) == expected
        assert another.materialize(jnp.ones(3)).shape == (3,)
    assert lowered(sines(case), *arrays) != expected


@pytest.mark.skipif(not compiler_options(), reason="of XLA on the CPU, where it takes the options")
def test_computed_once_is_computed_once():
    x = np.linspace(-1.0, 1.0, 64 * 64 * 8, dtype=np.float32).reshape(64, 64, 8)

    def read_twice(keep):
        def fn(x):
            y = keep(jnp.maximum(2 * x + 1, 0))
            return y.transpose(2, 0, 1), y.transpose(1, 2, 0)

        return jit()(fn)

    once, anew = read_twice(materialize), read_twice(lambda x: x)
    counts = [fn.lower(x).compile().cost_analysis()["flops"] for fn in (once, anew)]
    assert counts == [3 * x.size, 6 * x.size]
    chex.assert_trees_all_equal(once(x), anew(x))


def test_derivatives_of_what_is_computed_once():
    x, dx = drawn((5,), (5,))

    def fn(x):
        return jnp.sum(materialize(x**3))

    with jax.enable_x64(True):
        value, forward = jax.jvp(jax.jit(fn), (x,), (dx,))
        close([value, forward], [np.sum(x**3), np.sum(3 * x**2 * dx)])
        close(jax.jit(jax.grad(fn))(x), 3 * x**2)
        close(jax.jvp(jax.jit(jax.grad(fn)), (x,), (dx,))[1], 6 * x * dx)
        close(jax.jacfwd(jax.grad(fn))(x), np.diag(6 * x))
        close(jax.vmap(jax.grad(fn))(np.stack([x, dx])), 3 * np.stack([x, dx]) ** 2)
    assert "optimization_barrier" in lowered(fn, x)
    for platform in ("tpu", "cuda"):
        assert "optimization_barrier" not in lowered(jax.grad(fn), x, platform=platform)
