"""ritz.target.library: each packaged target is sound, and some are exact."""

import functools
import itertools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax.scipy.stats import norm
from numpyro import handlers
from numpyro.infer import init_to_median
from numpyro.infer.util import log_density, potential_energy, unconstrain_fn

import ritz.target.library as library
from ritz._errors import RitzError
from ritz.target import from_numpyro

# Latent sites with their shapes, deterministic sites, and the size of the observed one.
SITES = {
    "count_hierarchical": (
        {"mu": (), "tau": (), "beta": (4,), "intercept": (6,), "shape": ()},
        set(),
        1010,
    ),
    "eight_schools": ({"mu": (), "tau": (), "eta": (8,)}, {"theta"}, 8),
    "eight_schools_centered": ({"mu": (), "tau": (), "theta": (8,)}, set(), 8),
    "fertility_countries": (
        dict.fromkeys(("level", "trend", "tau_level", "tau_trend", "sigma"), ())
        | {"intercept": (205,), "slope": (205,)},
        set(),
        1187,
    ),
    "gaussian_mixture": ({"weights": (2,), "mu": (2,), "sigma": (2,)}, set(), 150),
    "gp_classification_iris": ({"length": (), "amplitude": (), "z": (100,)}, {"f"}, 100),
    "gp_regression": (
        dict.fromkeys(
            ("intercept", "slope", "smooth", "length", "season", "roughness", "noise"), ()
        ),
        set(),
        120,
    ),
    "hidden_markov_nile": ({"stay": (), "flow": (2,), "sigma": (), "z": (100,)}, set(), 100),
    "horseshoe_breast_cancer": (
        {"intercept": (), "tau": (), "slab": (), "local": (30,), "beta": (30,)},
        set(),
        569,
    ),
    "item_response_davis": (
        dict.fromkeys(("mean", "spread", "sharpness"), ())
        | {"ability": (18,), "difficulty": (14,), "discrimination": (14,)},
        set(),
        252,
    ),
    "lattice_phi4": ({"phi": (16, 16)}, set(), None),
    "logistic_breast_cancer": ({"intercept": (), "beta": (30,)}, set(), 569),
    "mixture_iris": ({"weights": (2,), "mu": (2,), "sigma": (2,), "z": (150,)}, set(), 150),
    "ordinal_regression": ({"beta": (5,), "cutpoints": (6,)}, set(), 944),
    "poisson_counties": ({"mu": (), "tau": (), "rate": (301,)}, set(), 301),
    "robust_diabetes": ({"intercept": (), "beta": (10,), "sigma": (), "nu": ()}, set(), 442),
    "selection_diabetes": (
        {"share": (), "sigma": (), "used": (10,), "beta": (10,)},
        set(),
        442,
    ),
    "state_space_nile": (
        {"sigma_level": (), "sigma_flow": (), "first": (), "z": (99,)},
        {"level"},
        100,
    ),
    "stochastic_volatility": ({"mu": (), "phi": (), "sigma": (), "z": (600,)}, {"h"}, 600),
}

# Those with discrete sites, and how their targets treat them.
DISCRETE = {
    "hidden_markov_nile": "z: summed, 2 values, scan of 100",
    "mixture_iris": "z: summed, 2 values, plate of 150",
    "selection_diabetes": "used: summed, 2 values, 10 elements jointly (1,024 combinations)",
}


# A model is compiled whole, as its operations one by one take longer, and not optimised, as it is
# run only once or twice.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def test_every_target_is_listed_and_tested():
    files = Path(library.__file__).parent.glob("[a-z]*.py")
    assert {file.stem for file in files} == set(library.names()) == set(SITES)
    assert list(library.names()) == sorted(library.names())


def test_listing_imports_no_target():
    code = (
        "import sys, ritz.target\n"
        "before = set(sys.modules)\n"
        "from ritz.target import library\n"
        "library.names()\n"
        "new = set(sys.modules) - before\n"
        "heavy = ('numpyro', 'ritz.target.library.', 'ritz.data', 'sklearn', 'statsmodels')\n"
        "print(sorted(name for name in new if name.startswith(heavy)))\n"
        "print('sklearn' in sys.modules or 'statsmodels' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['ritz.target.library._packaged']", "False"]


def test_an_unknown_target_is_refused():
    with pytest.raises(RitzError, match="'eight_school'; did you mean 'eight_schools'"):
        library.get("eight_school")


def test_data_of_a_missing_package_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.datasets.nile", None)
    with pytest.raises(RitzError, match="pip install statsmodels"):
        library.get("state_space_nile").data()


@pytest.mark.parametrize("name", SITES)
def test_a_target_is_finite_in_float32_at_its_median(name):
    packaged = library.get(name)
    assert packaged.name == name
    assert packaged.description == library.names()[name]
    assert packaged.source
    data = packaged.data()

    latent, deterministic, rows = SITES[name]
    traces = []

    target = from_numpyro(packaged.model, (), data) if name in DISCRETE else None
    own = set() if target is None else {site.name for site in target.sites}
    if target is not None:
        assert target.lines == (DISCRETE[name],)

    @compiled
    def evaluate(key, scale):
        if target is not None:
            model = handlers.seed(packaged.model, key)
            traces.append(handlers.trace(model).get_trace(**data))
            start = target.unconstrain({k: traces[-1][k]["value"] for k in latent if k in own})
            x = start + scale * jax.random.normal(key, start.shape)
            return jax.value_and_grad(target.log_density)(x)
        model = handlers.seed(packaged.model, key)
        model = handlers.substitute(model, substitute_fn=init_to_median)
        traces.append(handlers.trace(model).get_trace(**data))
        median = {k: traces[-1][k]["value"] for k in latent}
        free = unconstrain_fn(packaged.model, (), data, median)
        free = jax.tree.map(lambda x: x + scale * jax.random.normal(key, x.shape), free)
        return jax.value_and_grad(lambda z: potential_energy(packaged.model, (), data, z))(free)

    for scale in (0.0, 1.0):  # at the median, and a unit of the unconstrained space away from it
        value, gradient = evaluate(jax.random.key(1), scale)
        assert value.dtype == jnp.float32
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

    trace = traces[0]
    found = {
        key: np.shape(site["value"])
        for key, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
    assert found == latent
    assert {key for key, s in trace.items() if s["type"] == "deterministic"} == deterministic
    if rows is None:  # a density of its own, without data
        assert "y" not in trace
        return
    assert trace["y"]["is_observed"]
    assert np.shape(trace["y"]["value"]) == (rows,)


@pytest.mark.parametrize("name", [name for name in SITES if SITES[name][2] is not None])
def test_a_target_predicts_where_its_observations_are_left_out(name):
    packaged = library.get(name)
    inputs = {key: value for key, value in packaged.data().items() if key != "y"}

    @compiled
    def draw(key):
        return handlers.trace(handlers.seed(packaged.model, key)).get_trace(**inputs)["y"]["value"]

    drawn = draw(jax.random.key(0))
    assert drawn.shape == (SITES[name][2],)
    assert np.isfinite(drawn).all()


def _log_joint(name, data, values):
    model = library.get(name).model
    return compiled(lambda values: log_density(model, (), data, values)[0])(values)


def test_the_two_schools_have_one_posterior():
    """p(eta) = p(theta) tau^8: the effects change variables, nothing else does."""
    data = library.get("eight_schools").data()
    for seed in range(3):
        eta = jax.random.normal(jax.random.key(seed), (8,))
        shared = {"mu": jnp.array(2.0 + seed), "tau": jnp.array(0.5 + 2 * seed)}
        free = _log_joint("eight_schools", data, {**shared, "eta": eta})
        theta = shared["mu"] + shared["tau"] * eta
        centred = _log_joint("eight_schools_centered", data, {**shared, "theta": theta})
        np.testing.assert_allclose(free, centred + 8 * jnp.log(shared["tau"]), rtol=1e-5)


def test_the_two_mixtures_have_one_posterior():
    """Assignments summed out by Ritz, and by hand."""
    data = library.get("mixture_iris").data()
    target = from_numpyro(library.get("mixture_iris").model, (), data)
    for seed in range(3):
        x = jax.random.normal(jax.random.key(seed), (target.dim,))
        values = target.constrain(x)
        by_hand = _log_joint("gaussian_mixture", data, values) + target.log_det(x)
        np.testing.assert_allclose(jax.jit(lambda x: target.log_density(x))(x), by_hand, rtol=1e-5)


def _kalman_log_likelihood(y, sigma_level, sigma_flow, mean, sd):
    variance, total = sd**2, 0.0
    for value in y:
        spread = variance + sigma_flow**2
        total += -0.5 * (np.log(2 * np.pi * spread) + (value - mean) ** 2 / spread)
        gain = variance / spread
        mean, variance = mean + gain * (value - mean), variance * (1 - gain) + sigma_level**2
    return total


def test_the_nile_has_the_likelihood_of_the_kalman_filter():
    """Integrating the walk out of the model is exact, as the joint is Gaussian in it."""
    with jax.enable_x64(True):
        packaged = library.get("state_space_nile")
        data = packaged.data()
        priors = {"sigma_level": 1.0, "sigma_flow": 2.0}

        def joint(walk, scales):
            # Only the terms of the walk and the flow: the priors of the scales are taken off.
            values = {**scales, "first": walk[0], "z": walk[1:]}
            prior = sum(
                numpyro.distributions.HalfNormal(priors[k]).log_prob(scales[k]) for k in scales
            )
            return log_density(packaged.model, (), data, values)[0] - prior

        @compiled
        def log_likelihood(scales):
            zero = jnp.zeros(100)
            gradient = jax.grad(joint)(zero, scales)
            precision = -jax.hessian(joint)(zero, scales)
            gain = 0.5 * gradient @ jnp.linalg.solve(precision, gradient)
            volume = 50 * jnp.log(2 * jnp.pi) - 0.5 * jnp.linalg.slogdet(precision)[1]
            return joint(zero, scales) + gain + volume

        for sigma_level, sigma_flow in itertools.product((0.1, 0.4, 1.0), (0.8, 1.2, 2.0)):
            ours = log_likelihood({"sigma_level": sigma_level, "sigma_flow": sigma_flow})
            exact = _kalman_log_likelihood(data["y"], sigma_level, sigma_flow, 10.0, 3.0)
            np.testing.assert_allclose(ours, exact, rtol=1e-9)
            wrong = _kalman_log_likelihood(data["y"], sigma_level, sigma_flow, 10.0, 2.0)
            assert abs(ours - wrong) > 1e-3


def test_the_mixture_sums_over_all_assignments():
    y = np.array([1.2, 1.6, 3.9, 4.4, 5.1, 6.0])
    values = {
        "weights": jnp.array([0.3, 0.7]),
        "mu": jnp.array([1.5, 4.8]),
        "sigma": jnp.array([0.4, 0.9]),
    }
    with_data = _log_joint("gaussian_mixture", {"y": y}, values)
    prior = _log_joint("gaussian_mixture", {"y": y[:1]}, values) - jnp.logaddexp(
        jnp.log(0.3) + norm.logpdf(y[0], 1.5, 0.4), jnp.log(0.7) + norm.logpdf(y[0], 4.8, 0.9)
    )
    weights, mu, sigma = (np.asarray(values[k]) for k in ("weights", "mu", "sigma"))
    total = sum(
        np.prod(weights[list(z)] * norm.pdf(y, mu[list(z)], sigma[list(z)]))
        for z in itertools.product((0, 1), repeat=6)
    )
    np.testing.assert_allclose(with_data - prior, np.log(total), rtol=1e-5)


def test_the_process_has_its_marginal_likelihood():
    packaged = library.get("gp_regression")
    data = packaged.data()
    values = {
        "intercept": 0.1,
        "slope": 0.3,
        "smooth": 0.2,
        "length": 0.9,
        "season": 0.5,
        "roughness": 1.5,
        "noise": 0.05,
    }
    trace = handlers.trace(handlers.substitute(packaged.model, values)).get_trace(**data)
    ours = trace["y"]["fn"].log_prob(data["y"])
    t, v = data["t"], values
    lag = t[:, None] - t
    k = v["smooth"] ** 2 * np.exp(-(lag**2) / (2 * v["length"] ** 2))
    k += v["season"] ** 2 * np.exp(
        -2 * np.sin(np.pi * lag) ** 2 / v["roughness"] ** 2 - lag**2 / 800
    )
    k += np.eye(120) * (v["noise"] ** 2 + 1e-5 * (v["smooth"] ** 2 + v["season"] ** 2))
    residual = data["y"] - v["intercept"] - v["slope"] * t
    exact = -0.5 * (
        residual @ np.linalg.solve(k, residual) + np.linalg.slogdet(k)[1] + 120 * np.log(2 * np.pi)
    )
    np.testing.assert_allclose(ours, exact, rtol=1e-3)


def test_the_volatility_is_a_stationary_ar1():
    """h is linear in its shocks: its covariance is that of the linear map, exactly."""
    packaged = library.get("stochastic_volatility")
    phi, sigma = 0.9, 0.4

    def path(z):
        values = {"mu": 0.0, "phi": phi, "sigma": sigma, "z": z}
        return handlers.trace(handlers.substitute(packaged.model, values)).get_trace(
            y=np.zeros(30)
        )["h"]["value"]

    map_ = jax.jit(jax.jacobian(path))(jnp.zeros(30))
    days = np.arange(30)
    exact = sigma**2 / (1 - phi**2) * phi ** np.abs(days[:, None] - days)
    np.testing.assert_allclose(map_ @ map_.T, exact, rtol=1e-4)


def test_ordered_logits_agree_with_numpyro_and_stay_finite():
    from ritz.target.library.ordinal_regression import ordered_logits

    cutpoints = jnp.array([-1.5, -0.2, 0.1, 2.0])
    score = jnp.linspace(-3.0, 3.0, 7)
    ours = ordered_logits(score, cutpoints)
    theirs = numpyro.distributions.OrderedLogistic(score[:, None], cutpoints)
    np.testing.assert_allclose(ours, theirs.log_prob(jnp.arange(5)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jnp.exp(ours).sum(axis=1), 1.0, rtol=1e-6)
    assert np.isfinite(ordered_logits(jnp.array([-200.0, 200.0]), cutpoints)).all()
