"""The preflight: what it says of models that can be fitted, and of broken ones."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from scipy import stats

import ritz
from ritz.target import from_log_density, from_numpyro

Y = np.random.default_rng(0).normal(size=8)
X = np.random.default_rng(1).normal(size=(8, 3))


def good(X, y):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(2.0))
    numpyro.factor("pull", -(b.sum() ** 2))
    with numpyro.plate("rows", len(y)):
        mu = numpyro.deterministic("mu", X @ b)
        numpyro.sample("y", dist.Normal(mu, s), obs=y)


def test_every_site_is_named_with_shape_support_dims_and_log_density():
    found = ritz.check(good, {"X": X, "y": Y})
    assert found.ok
    assert found.start == "the prior median"
    rows = {row["name"]: row for row in found.rows}
    kinds = {"b": "latent", "s": "latent", "y": "observed", "mu": "deterministic", "pull": "factor"}
    assert {name: row["kind"] for name, row in rows.items()} == kinds
    assert [rows[n]["shape"] for n in ("b", "s", "y", "mu")] == [(3,), (), (8,), (8,)]
    assert [rows[n]["support"] for n in ("b", "s")] == ["real", "positive"]
    assert [rows[n]["dims"] for n in ("b", "y", "mu")] == [("b_dim_0",), ("rows",), ("rows",)]

    target = from_numpyro(good, (X, Y))
    values = target.constrain(target.start(jax.random.key(0))[0])
    expected = {
        "b": stats.norm().logpdf(values["b"]).sum(),
        "s": stats.halfnorm(scale=2).logpdf(values["s"]),
        "pull": -(np.sum(values["b"]) ** 2),
        "y": stats.norm(values["mu"], values["s"]).logpdf(Y).sum(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(rows[name]["log_density"], value, rtol=1e-4)
    assert rows["mu"]["log_density"] is None

    lines = str(found).splitlines()
    assert lines[0].split() == ["site", "kind", "shape", "support", "dims", "log", "density"]
    assert lines[-1] == "ok: finite log density and gradient at the prior median"
    assert len(lines) == 7
    assert repr(found) == str(found)


def test_targets_and_batches_are_checked_too():
    target = from_log_density(lambda p: -p["s"], {"s": 1.0}, {"s": constraints.positive})
    found = ritz.check(target)
    assert found.ok
    assert found.start == "the example"
    assert [row["kind"] for row in found.rows] == ["latent", "function"]
    np.testing.assert_allclose(found.rows[1]["log_density"], -1.0)
    assert ritz.check(good, ritz.data.batches({"X": X, "y": Y}, 4)).ok


def discrete(y):
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Poisson(0.5))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def wrong_plate(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 4):
        numpyro.sample("y", dist.Normal(m, jnp.ones(8)), obs=y)


def wrong_nested_plates(X):
    with numpyro.plate("people", 8), numpyro.plate("items", 3):
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(m, 1.0), obs=X)


def missing_to_event():
    with numpyro.plate("groups", 4):
        numpyro.sample("mu", dist.Normal(jnp.zeros(3), 1.0))


def wrong_data(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 5):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def column(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y[:, None])


def on_a_sphere():
    numpyro.sample("p", dist.ProjectedNormal(jnp.ones(3)))


def fixed(y):
    m = numpyro.sample("m", dist.Delta(0.5))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def nothing_latent(y):
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def plate_around_scan(y):
    numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 3):
        scan(lambda c, x: (numpyro.sample("z", dist.Normal(c, 1.0)), None), 0.0, y)


def outside_the_support(y):
    rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Exponential(rate), obs=y)


def impossible(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.factor("never", -jnp.inf)
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def no_gradient(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0 + jnp.sqrt(jnp.abs(0.0 * m))), obs=y)


def misspelt(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m, sigma), obs=y)  # noqa: F821 # pyright: ignore


def one_row(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


# Every line names what is wrong, where, and (after the last ";" or ",") what to do.
BROKEN = [
    (discrete, (Y,), r"site 'z' is discrete \(Poisson\) and not observed; only finite"),
    (
        wrong_plate,
        (Y,),
        r"site 'y' \(line \d+ of test_check.py\): plate 'rows' has size 4 at dim -1, but the "
        r"distribution has batch shape \(8,\) and its data shape \(8,\); make the plate's size 8",
    ),
    (
        wrong_nested_plates,
        (X,),
        r"site 'y': its data have shape \(8, 3\), but its distribution has shape \(3, 8\); "
        r"reshape the data, or make the plates",
    ),
    (
        missing_to_event,
        (),
        r"site 'mu' .*plate 'groups' has size 4 at dim -1, .* batch shape \(3,\); .*\.to_event",
    ),
    (wrong_data, (Y,), r"site 'y': its data have shape \(8,\), .* shape \(5,\); reshape"),
    (column, (Y,), r"site 'y': its data have shape \(8, 1\), .* shape \(8,\); reshape"),
    (on_a_sphere, (), r"site 'p' has support sphere, .*; reparameterise it"),
    (fixed, (Y,), r"site 'm' has a Delta distribution; write numpyro.deterministic"),
    (nothing_latent, (Y,), r"model 'nothing_latent' has no latent site"),
    (plate_around_scan, (Y,), r"model 'plate_around_scan' failed \(line \d+ .*move those `plate`"),
    (
        outside_the_support,
        (Y,),
        r"log density of site 'y' is -inf \(2 of 8 observations, first at \[1\], data -0.13\d+\); "
        r"check its data against its support",
    ),
    (impossible, (Y,), r"the log density of site 'never' is -inf"),
    (no_gradient, (Y,), r"gradient with respect to site 'm' is not finite .*; look for sqrt"),
    (
        misspelt,
        (Y,),
        r"model 'misspelt' failed \(line \d+ of test_check.py\): NameError: .*'sigma'",
    ),
    (one_row, (np.array([1.0, np.nan]),), r"argument 'y' holds nan at index 1: drop"),
    (one_row, {"x": Y}, r"model 'one_row' has no argument 'x'; .*y"),
    (one_row, None, r"model 'one_row' needs 'y' and was given no data"),
    (one_row, Y, r"the data are one array .*data=\(array,\)"),
    (3, None, r"a model arrived as int; expected a NumPyro model function"),
]


@pytest.mark.parametrize(
    ("model", "data", "said"), BROKEN, ids=lambda v: getattr(v, "__name__", "")
)
def test_broken_models_are_explained_in_one_line(model, data, said):
    found = ritz.check(model, data)
    assert not found.ok
    assert len(found.problems) == 1
    assert "\n" not in found.problems[0]
    assert re.search(said, found.problems[0]), found.problems[0]
    assert str(found).splitlines()[-1] == f"problem: {found.problems[0]}"


def test_a_model_without_a_start_still_has_its_sites_listed():
    found = ritz.check(impossible, (Y,))
    assert [row["name"] for row in found.rows] == ["m", "y"]
    assert found.rows[0]["shape"] == ()
