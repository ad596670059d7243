"""Flows: exact cases, inverses, Jacobians, densities, and FlowJAX distributions as families."""

import functools
import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
import pytest
from flowjax import bijections, distributions, flows
from jax.flatten_util import ravel_pytree
from scipy import stats

import ritz
from ritz import RitzError
from ritz.estimator import pathwise
from ritz.family import Flow, from_flowjax, mean_field, registered
from ritz.family._base import in_units
from ritz.family._planar import inverse, still
from ritz.family._radial import Radial
from ritz.family._size import bytes_of
from ritz.family._sylvester import Sylvester
from ritz.objective import Problem, annealed, negative_elbo
from ritz.solver._optax import _clip
from ritz.target import from_log_density

SMALL = {
    "planar": {"layers": 3},
    "radial": {"layers": 3},
    "sylvester": {"layers": 2, "planes": 2},
    "coupling": {"layers": 2, "width": 6},
    "iaf": {"layers": 2, "width": 6},
    "maf": {"layers": 2, "width": 6},
    "spline": {"layers": 2, "width": 6, "knots": 4},
    "bnaf": {"layers": 1, "block": 8},
}
GAUSSIAN_IN_ONE = ("coupling", "iaf", "maf")
# One of each kind of code runs in `make test`, all in `make test-all`.
MOST = [n if n != "bnaf" else pytest.param(n, marks=pytest.mark.slow) for n in SMALL]
SOME = [n if n in ("planar", "spline") else pytest.param(n, marks=pytest.mark.slow) for n in SMALL]


@pytest.fixture(autouse=True)
def unoptimised():
    """Programs that run once, on tiny arrays, are mostly compilation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def small(name, dim=2, **options):
    return _small(name, dim, jnp.zeros(()).dtype, **options)


@functools.cache
def _small(name, dim, dtype, **options):
    start = jnp.arange(1.0, dim + 1.0, dtype=dtype)
    return registered()[name].build(None, start, **SMALL[name], **options)


def moved(name, dim=2, by=0.5):
    """Away from where it starts."""
    q = small(name, dim, scale=0.7)
    vector, back = ravel_pytree(q.arrays)
    noise = back(by * jax.random.normal(jax.random.key(1), vector.shape))
    noise = in_units(eqx.tree_at(lambda q: q.arrays, q, noise), 1.0).arrays
    return eqx.tree_at(lambda q: q.arrays, q, jax.tree.map(jnp.add, q.arrays, noise))


def draws(q, n, seed=0):
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(q.sample_and_log_prob))(keys))


def density(q, points):
    return np.asarray(jax.jit(jax.vmap(q.log_prob))(jnp.asarray(points)), float)


def target(dim=2):
    return from_log_density(lambda x: -0.5 * ((x - 1.0) ** 2).sum(), jnp.zeros(dim))


def test_all_flows_are_here():
    made = {n for n, r in registered().items() if isinstance(r.builder, str)}
    assert set(SMALL) <= made


@pytest.mark.parametrize("name", SMALL)
def test_it_starts_as_the_gaussian_around_the_start(name):
    q, gaussian = small(name, 3), mean_field(None, jnp.arange(1.0, 4.0))
    x, log_q = draws(q, 500)
    near = 0.25 if name == "bnaf" else 2e-5
    assert np.abs(log_q - density(gaussian, x)).max() < near
    assert q.options == {**q.options, **SMALL[name], "scale": 0.1, "seed": 0}
    again = registered()[name].build(None, jnp.zeros(3), **json.loads(json.dumps(q.options)))
    assert jax.tree.structure(again) == jax.tree.structure(q)
    assert q.name == name
    assert q.capabilities == registered()[name].capabilities


@pytest.mark.parametrize("x64", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", MOST)
def test_inverse_and_determinant(name, x64):
    with jax.enable_x64(x64):
        q = moved(name, 3, by=1.0)
        flow = paramax.unwrap(q.distribution.bijection)
        z = jax.random.normal(jax.random.key(2), (20, 3))
        x, log_det = jax.jit(jax.vmap(flow.transform_and_log_det))(z)
        assert x.dtype == log_det.dtype == (jnp.float64 if x64 else jnp.float32)
        jacobian = jax.jit(jax.vmap(jax.jacfwd(flow.transform)))
        exact, other = (np.linalg.slogdet(np.asarray(jacobian(v), float))[1] for v in (z, z[::-1]))
        small = 1e-9 if x64 else 1e-3
        assert np.abs(log_det - exact).max() < small
        assert np.abs(log_det - other).max() > 5 * small
        back, inverse_log_det = jax.jit(jax.vmap(flow.inverse_and_log_det))(x)
        assert np.abs(back - z).max() < small
        assert np.abs(inverse_log_det + log_det).max() < 10 * small


@pytest.mark.parametrize("name", SOME)
def test_density_integrates_to_one_and_is_that_of_the_draws(name):
    q = moved(name, by=0.3)
    x, log_q = draws(q, 5000)
    np.testing.assert_allclose(density(q, x[:50]), log_q[:50], rtol=1e-3, atol=2e-3)
    centre, sd = np.median(x, 0), x.std(0)
    line = np.linspace(-9.0, 9.0, 301)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1) * sd + centre
    points = grid.reshape(-1, 2).astype(np.float32)
    mass = np.exp(density(q, points)).reshape(301, 301) * (line[1] - line[0]) ** 2 * sd.prod()
    assert abs(mass.sum() - 1.0) < 5e-3
    for i in range(2):
        below = np.cumsum(mass.sum(1 - i)) - 0.5 * mass.sum(1 - i)
        cdf = lambda v, i=i, below=below: np.interp((v - centre[i]) / sd[i], line, below)
        assert stats.kstest(x[:, i], cdf).pvalue > 0.005
        assert stats.kstest(centre[i] + 1.2 * (x[:, i] - centre[i]), cdf).pvalue < 1e-4


@pytest.mark.parametrize("name", MOST)
def test_one_dimension(name):
    if name in GAUSSIAN_IN_ONE:
        with pytest.raises(RitzError, match=f"'{name}' is a Gaussian in one .*'spline' or 'bnaf'"):
            small(name, 1)
        return
    options = SMALL[name] | ({"planes": 1} if name == "sylvester" else {})
    q = registered()[name].build(None, jnp.ones(1), **options)
    x, log_q = draws(q, 50)
    np.testing.assert_allclose(density(q, x), log_q, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SOME)
def test_its_size_is_known_before_it_is_made(name):
    build = registered()[name].build
    wanted = bytes_of(build, None, jnp.zeros(100))
    assert wanted is not None
    assert wanted < 64 * 2**20


def planar_by_hand(w, u, b, z):
    u = u + (-1.0 + np.log1p(np.log1p(np.exp(w @ u))) - w @ u) * w / (w @ w)
    bent = np.tanh(w @ z + b)
    return z + u * bent, np.log1p((1.0 - bent**2) * (w @ u)), u


def test_planar_and_sylvester_with_one_plane_are_the_formula():
    rng = np.random.default_rng(0)
    w, u, z, b = *rng.normal(size=(3, 4)), 0.3
    with jax.enable_x64(True):
        layer = bijections.Planar(jax.random.key(0), dim=4)
        layer = eqx.tree_at(lambda p: p.params, layer, jnp.asarray([*w, *u, b]))
        x, log_det, moved_u = planar_by_hand(w, u, b, z)
        found = layer.transform_and_log_det(z)
        np.testing.assert_allclose(found[0], x, rtol=1e-12)
        np.testing.assert_allclose(found[1], log_det, rtol=1e-10)
        np.testing.assert_allclose(inverse(layer, jnp.asarray(x)), z, rtol=1e-12)
        # Sylvester's one column is a mirror image of the first axis; u may be along it alone.
        length = np.linalg.norm(w)
        mirror = np.eye(4)[0] - w / length
        along = moved_u @ w / length
        softplus_inverse = lambda v: np.log(np.expm1(v))
        one = Sylvester(
            jnp.asarray(mirror[None]),
            jnp.zeros((1, 1)),
            jnp.zeros((1, 1)),
            jnp.log(jnp.array([length])),
            jnp.asarray([softplus_inverse(1.0 + along * length)]),
            jnp.array([b]),
        )
        only = z + along * w / length * np.tanh(w @ z + b)
        got = one.transform_and_log_det(jnp.asarray(z))
        np.testing.assert_allclose(got[0], only, rtol=1e-10)
        np.testing.assert_allclose(got[1], log_det, rtol=1e-10)


def test_planar_starts_still_and_keeps_its_constraint():
    layer = still(bijections.Planar(jax.random.key(0), dim=3), jax.random.key(1))
    assert np.abs(np.asarray(layer.get_planar().get_act_scale())).max() < 1e-6
    steep = eqx.tree_at(lambda p: p.params, layer, jnp.array([3.0, 0, 0, -9.0, 0, 0, 0.0]))
    plane = steep.get_planar()
    assert -1.0 <= float(plane.weight @ plane.get_act_scale()) < -0.99


def test_radial_is_the_formula_at_its_centre_too():
    layer = Radial(jnp.array([1.0, -1.0]), jnp.array(0.2), jnp.array(2.0))
    alpha, total = np.log1p(np.exp([0.2, 2.0]))
    z = np.array([0.5, 0.5])
    r = np.linalg.norm(z - [1.0, -1.0])
    x, log_det = layer.transform_and_log_det(jnp.asarray(z))
    np.testing.assert_allclose(x, z + (total - alpha) / (alpha + r) * (z - [1.0, -1.0]), rtol=1e-6)
    beta, h = total - alpha, 1.0 / (alpha + r)
    exact = np.log1p(beta * h) + np.log(1.0 + beta * h - beta * r * h**2)
    np.testing.assert_allclose(log_det, exact, rtol=1e-5)
    slope = jax.grad(lambda z: layer.transform_and_log_det(z)[1])(jnp.array([1.0, -1.0]))
    assert np.isfinite(np.asarray(slope)).all()


# -- FlowJAX distributions ------------------------------------------------------------------------


def test_a_flowjax_distribution_is_a_family_as_it_is():
    normal = distributions.Normal(jnp.zeros(2), jnp.full(2, 0.5))
    fit = ritz.fit(target(), family=normal, steps=1500, progress=False)
    assert isinstance(fit.q, Flow)
    assert fit.info["family"] == "Flow"
    assert np.abs(np.asarray(fit.q.distribution.loc) - 1.0).max() < 0.05
    assert np.abs(np.asarray(fit.q.distribution.scale) - 1.0).max() < 0.05
    np.testing.assert_allclose(
        fit.q.log_prob(jnp.ones(2)), fit.q.distribution.log_prob(jnp.ones(2)), rtol=1e-6
    )


def test_what_is_not_trainable_stays(tmp_path):
    normal = distributions.Normal(jnp.zeros(2), jnp.full(2, 0.5))
    frozen = eqx.tree_at(
        lambda n: n.bijection.scale, normal, replace_fn=lambda s: paramax.non_trainable(s)
    )
    q = from_flowjax(frozen)
    (location,) = q.arrays
    assert location.shape == (2,)
    fit = ritz.fit(target(), family=q, steps=300, lr=0.1, progress=False)
    np.testing.assert_allclose(fit.q.distribution.scale, 0.5, rtol=1e-6)
    assert np.abs(np.asarray(fit.q.arrays[0]) - 1.0).max() < 0.2
    fit.save(tmp_path / "fit")
    again = ritz.load(tmp_path / "fit", family=frozen)
    np.testing.assert_array_equal(again.q.arrays[0], fit.q.arrays[0])
    with pytest.raises(RitzError, match="which is not registered; give ritz"):
        ritz.load(tmp_path / "fit")


def coupled():
    return from_flowjax(
        flows.coupling_flow(
            jax.random.key(0),
            base_dist=distributions.Normal(jnp.zeros(2)),
            flow_layers=1,
            nn_width=3,
            invert=False,
        )
    )


def test_networks_weights_move_in_tenths():
    q = coupled()
    shapes = [array.shape for array in q.arrays]
    units = dict(zip(shapes, [u for u in q.units if u is not None], strict=True))
    assert units == {(2,): 1.0, (1, 3, 1): 0.1, (1, 3): 0.1, (1, 2, 3): 0.1, (1, 2): 0.1}
    for power in (1.0, -1.0):
        for old, new in zip(q.arrays, in_units(q, power).arrays, strict=True):
            np.testing.assert_allclose(new, units[old.shape] ** power * old, rtol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: optax.adamw(0.05, weight_decay=0.3), lambda: optax.sgd(0.05, momentum=0.5)]
)
def test_training_in_units_is_training_the_parameters_divided_by_them(make):
    """Three steps, against the same transformation on weights that are written in tenths."""
    q, transformation, key = coupled(), make(), jax.random.key(2)
    problem = Problem(target(), q, negative_elbo(8, entropy="mc"), pathwise())
    assert problem.params.units == q.units
    solver = ritz.solver.optax_solver(transformation)
    state = solver.init(problem, key)
    written = in_units(problem.params, -1.0)
    opt = transformation.init(written)
    for i in range(3):
        loss = lambda w, k: problem.loss(in_units(w, 1.0), k)[0]
        at = jax.random.fold_in(key, i)
        update, opt = transformation.update(jax.grad(loss)(written, at), opt, written)
        written = optax.apply_updates(written, update)
        state, _ = solver.step(problem, state, at)
    for ours, theirs in zip(state.params.arrays, in_units(written, 1.0).arrays, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    plain = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params.arrays, q.arrays)
    assert min(float(v) for v in plain) > 0.0


def lengths(clip, scales):
    """Of what is left of gradients (3, 4) times some scales."""
    moves = _clip(clip)
    state, out = moves.init(jnp.zeros(2)), []
    for scale in scales:
        left, state = moves.update(jnp.array([3.0, 4.0]) * scale, state)
        out.append(float(jnp.linalg.norm(left)))
    return out


def test_gradients_are_clipped_to_a_multiple_of_their_running_mean():
    assert lengths(2.0, [1.0, 1.0, 1.0]) == pytest.approx([5.0] * 3)
    # (0.99^2 + 0.99 + 1) 5 / same = 5 before; the clipped one, of length 10, enters the mean.
    weights = 0.99 ** np.arange(3)[::-1]
    usual = (weights * [5.0, 5.0, 10.0]).sum() / weights.sum()
    assert lengths(2.0, [1.0, 1.0, 1e6, 1e6]) == pytest.approx(
        [5.0, 5.0, 10.0, 2.0 * usual], rel=1e-5
    )
    assert lengths(2.0, [1.0, 1e30, 1.0])[1:] == pytest.approx(
        [0.0, 5.0], rel=1e-5
    )  # the length overflows
    assert np.isnan(lengths(2.0, [1.0, np.nan])[1])
    with pytest.raises(RitzError, match=r"clip=-1.0 arrived, expected a positive number"):
        ritz.solver.adam(clip=-1.0)


def test_the_length_is_that_of_the_smaller_half_of_the_arrays():
    """By which all are shortened; what is in the large ones alone is not seen."""
    moves = _clip(2.0)
    of = lambda small, large: {"bias": jnp.full(2, small), "weights": jnp.full((3, 5), large)}
    state = moves.init(of(0.0, 0.0))
    _, state = moves.update(of(1.0, 1.0), state)
    left, after = moves.update(of(10.0, 10.0), state)
    np.testing.assert_allclose(left["bias"], 2.0, rtol=1e-5)
    np.testing.assert_allclose(left["weights"], 2.0, rtol=1e-5)
    left, _ = moves.update(of(1.0, 10.0), state)
    np.testing.assert_allclose(left["weights"], 10.0)
    assert float(after.mean) > float(state.mean)


def test_a_flow_survives_a_draw_far_out():
    """One gradient in a hundred is a million times too long: Adam alone stands still after it."""

    def log_density(x):
        far = jnp.where(jnp.abs(x[1] - 2.0) > 2.8, 1e6 * jnp.sign(x[0] - 2.0), 0.0)
        far = jax.lax.stop_gradient(far)
        return -0.5 * ((x - 2.0) ** 2).sum() + far * (x[0] - jax.lax.stop_gradient(x[0]))

    runs = {}
    for clip in (None, 5.0):
        q = mean_field(from_log_density(log_density, jnp.zeros(2)), jnp.array([-1.0, 2.0]))
        problem = Problem(
            from_log_density(log_density, jnp.zeros(2)), q, negative_elbo(4), pathwise()
        )
        adam = ritz.solver.adam(0.05, 1500, clip)
        result = ritz.solver.run(problem, adam, 1500, jax.random.key(0), progress=False)
        q = problem.family_at(result.state.params)
        runs[clip] = float(jnp.maximum(abs(q.loc - 2.0).max(), abs(q.log_scale).max()))
    assert runs[5.0] < 0.2
    assert runs[None] > 3.0


def test_draws_of_other_shapes_are_ravelled():
    q = from_flowjax(distributions.StandardNormal((2, 2)))
    x, log_q = q.sample_and_log_prob(jax.random.key(0))
    assert q.dim == 4
    assert x.shape == (4,)
    np.testing.assert_allclose(log_q, stats.norm.logpdf(x).sum(), rtol=1e-5)
    assert from_flowjax(distributions.Normal()).sample(jax.random.key(0)).shape == (1,)


def test_capabilities_are_those_of_the_distribution():
    one = flows.planar_flow(
        jax.random.key(0), base_dist=distributions.StandardNormal((2,)), invert=False, flow_layers=2
    )
    assert from_flowjax(one).capabilities == {"sample", "sample_and_log_prob", "reparameterised"}
    fit = ritz.fit(target(), family=one, steps=20, progress=False)
    assert fit.psis is not None
    assert not hasattr(fit, "log_prob")
    components = eqx.filter_vmap(distributions.Normal)(jnp.zeros((3, 2)))
    mixture = distributions.VmapMixture(components, jnp.ones(3))
    assert from_flowjax(mixture).capabilities == {"sample", "log_prob"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: 3, "from_flowjax: int arrived, expected a FlowJAX distribution such as"),
        (lambda: bijections.Affine(jnp.zeros(2)), r"for a bijection, Transformed\(StandardNormal"),
        (
            lambda: flows.planar_flow(
                jax.random.key(0), base_dist=distributions.StandardNormal((2,))
            ),
            "this Transformed cannot be sampled, .*; make the flow with invert=False",
        ),
        (
            lambda: flows.coupling_flow(
                jax.random.key(0), base_dist=distributions.StandardNormal((2,)), cond_dim=3
            ),
            r"Transformed has a condition of shape \(3,\); make it without cond_dim",
        ),
    ],
)
def test_what_from_flowjax_refuses(given, message):
    with pytest.raises(RitzError, match=message) as error:
        from_flowjax(given())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("planar", {"layers": 0}, "planar: layers=0 arrived, expected a whole number from 1"),
        ("spline", {"knots": 2.5}, "spline: knots=2.5 arrived"),
        ("iaf", {"width": "wide"}, "iaf: width='wide' arrived"),
        ("radial", {"scale": 0.0}, "radial: scale=0.0 arrived, expected a positive number"),
        ("bnaf", {"seed": -1}, "bnaf: seed=-1 arrived"),
        ("sylvester", {"planes": 3}, "planes=3 arrived, expected at most the 2 dimensions"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(RitzError, match=message):
        registered()[name].build(None, jnp.zeros(2), **options)


def test_wrong_dimension_is_refused():
    with pytest.raises(RitzError, match="Flow has 3 dimensions, but the target has 2"):
        ritz.fit(target(), family=distributions.Normal(jnp.zeros(3)), steps=1)


# -- fits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_saved_fits_come_back(name, tmp_path):
    own = lambda t, x: registered()[name].build(t, x, seed=7, **SMALL[name])
    fit = ritz.fit(target(), family=own, steps=5, progress=False)
    assert fit.info["family"] == name
    fit.save(tmp_path / "fit")
    again = ritz.load(tmp_path / "fit", target())
    assert again.q.options == fit.q.options
    x = fit.sample(20)
    np.testing.assert_array_equal(again.log_prob(x), fit.log_prob(x))


def test_importing_ritz_does_not_import_flowjax():
    code = (
        "import sys, ritz; ritz.fit, ritz.family.registered(); sys.exit('flowjax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def banana():
    density = lambda x: -0.5 * (x[0] ** 2 + ((x[1] - x[0] ** 2 + 1.0) / 0.5) ** 2)
    return from_log_density(density, jnp.zeros(2)), np.log(np.pi)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_beats_the_best_gaussian_on_a_banana(name):
    seen, log_z = banana()
    best = log_z - ritz.fit(seen, family="full_rank", steps=2000, progress=False).elbo.value
    fit = ritz.fit(seen, family=name, steps=4000, draws=16, progress=False)
    assert log_z - fit.elbo.value < (0.9 if name == "radial" else 0.5) * best


# -- annealing ------------------------------------------------------------------------------------


def where(q, density):
    return -density.log_density(q.loc)


def losses(objective, steps, **options):
    import optax

    still = lambda t, x: mean_field(t, x + 3.0)
    fit = ritz.fit(
        target(), family=still, objective=objective, solver=optax.sgd(0.0), steps=steps, **options
    )
    return fit.history.loss


def test_the_target_is_let_in_by_the_step_of_the_run():
    t = np.arange(30)
    beta = np.minimum(1.0, 0.1 + t / 20)
    found = losses(annealed(where, steps=20, first=0.1), 30, progress=False)
    np.testing.assert_allclose(found, 4.0 * beta, rtol=1e-5)
    assert np.abs(found - 4.0 * np.minimum(1.0, 0.1 + (t % 10) / 20)).max() > 0.5  # by chunk


def test_a_schedule_that_has_ended_is_the_objective_itself():
    plain = negative_elbo(2, entropy="mc")
    np.testing.assert_array_equal(
        losses(annealed(plain, steps=5, first=1.0), 10), losses(plain, 10)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: annealed(steps=0), "annealed: steps=0 arrived"),
        (lambda: annealed(first=0.0), "annealed: first=0.0 arrived, expected a number above 0"),
        (lambda: annealed(lambda q: 0.0), "annealed: a function that takes"),
        (lambda: annealed("elbo"), "annealed: 'elbo' arrived, expected one of ritz.objective"),
    ],
)
def test_schedules_that_are_none(call, message):
    with pytest.raises(RitzError, match=message):
        call()
