"""Bad input: one line that says what arrived, what was expected and what to do."""

import functools
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas
import pytest
from numpyro.distributions import constraints

import ritz
from ritz import RitzError
from ritz.family import FullRank, MeanField
from ritz.objective import negative_elbo
from ritz.target import from_log_density, from_numpyro, library

X = np.array([0.0, 1.0, 2.0])
NAN, INF = np.nan, np.inf


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def plate_of_five(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("five", 5):
        numpyro.sample("y", dist.Normal(mu * jnp.ones(4), 1.0), obs=y)


def counts(y):
    rate = numpyro.sample("rate", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Poisson(rate), obs=y)


def infinite(y):
    kind = numpyro.sample("kind", dist.Poisson(0.3))
    numpyro.sample("y", dist.Normal(kind, 1.0), obs=y)


def discrete_only(y):
    kind = numpyro.sample("kind", dist.Bernoulli(0.3))
    numpyro.sample("y", dist.Normal(kind, 1.0), obs=y)


def selected(X, y):
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    with numpyro.plate("columns", X.shape[1]):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(beta * (X @ z), 1.0), obs=y)


def wall():
    numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.factor("wall", -jnp.inf)


def no_latent(y):
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def twice():
    numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("mu", dist.Normal(0.0, 1.0))


def raises(y):
    raise KeyError("first\nsecond")


def quadratic(x):
    return -0.5 * jnp.sum(x**2)


class NoEntropy(MeanField):
    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob", "reparameterised"})


class NoLogProb(MeanField):
    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "entropy", "reparameterised"})


class NotReparameterised(MeanField):
    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob", "entropy"})


def made(kind):
    return lambda target, start: kind(start, jnp.zeros_like(start))


def two():
    return from_log_density(quadratic, jnp.zeros(2))


def fit(model, *args, **kwargs):
    """A call of `ritz.fit` that has not been made yet."""
    return lambda tmp: ritz.fit(model() if model is two else model, *args, **kwargs)


def written(name, content):
    """A fit of `line` to a file."""

    def call(tmp):
        (tmp / name).write_bytes(content)
        ritz.fit(line, tmp / name)

    return call


@functools.cache
def fitted():
    """A fit that several rows share."""
    return ritz.fit(line, (X, X), steps=1)


def saved_over(tmp):
    (tmp / "thesis.txt").write_text("mine")
    ritz.fit(two(), steps=1, family="mean_field").save(tmp)


DATA = {
    "shape: length": (fit(line, (X, X[:2])), r"'y'.*\(2,\).*\(3,\).*reshape"),
    "shape: column": (fit(line, (X, X[:, None])), r"'y'.*\(3, 1\).*\(3,\).*reshape"),
    "shape: plate": (fit(plate_of_five, (X,)), r"'five' has size 5 at dim -1.*\(4,\).*size 4"),
    "dtype: object": (fit(line, (np.array([1, 2, 3], object), X)), r"'x'.*object.*astype\(float\)"),
    "dtype: None": (fit(line, (np.array([1, None, 3]), X)), r"'x' holds None at index 1: drop"),
    "dtype: text": (fit(line, (np.array(["a", "b"]), X)), r"'x' holds text \('a' at .*code it"),
    "dtype: list of text": (fit(line, (["a", "b"], X)), r"'x' holds text \('a' at index 0\)"),
    "dtype: dates": (fit(line, (X.astype("datetime64[D]"), X)), r"'x' holds dates.*pass numbers"),
    "dtype: integers too large": (fit(line, ([2**40], X)), r"1099511627776 at index 0.*x64"),
    "ragged": (fit(line, ([[1.0], [1.0, 2.0]], X)), r"'x' is a ragged list.*pad"),
    "nan": (fit(line, (X, np.array([1.0, NAN, 2.0]))), r"'y' holds nan at index 1: drop or fill"),
    "inf": (fit(line, (np.array([INF, 1.0, -INF]), X)), r"'x' holds inf at index 0 \(2 such"),
    "nan in a JAX array": (
        fit(line, (X, jnp.array([1.0, NAN]))),
        r"'y' holds nan at index 1: drop",
    ),
    "nan in a table": (
        fit(line, pandas.DataFrame({"x": X, "y": [1.0, NAN, 2.0]})),
        r"column 'y' has a missing value in row 1.*drop such rows",
    ),
    "masked": (fit(line, (np.ma.masked_less(X, 1.0), X)), r"'x' is masked at index 0: drop"),
    "empty": (fit(line, (np.zeros(0), np.zeros(0))), r"'x' has no elements \(shape \(0,\)\); pass"),
    "empty list": (fit(line, ([], [])), r"'x' has no elements.*pass at least one"),
    "empty tuple": (fit(line, ()), r"'line' needs 'x' and was given no data; pass data="),
    "empty table": (fit(line, pandas.DataFrame({"x": [], "y": []})), r"no rows.*x, y"),
    "no data": (fit(line), r"'line' needs 'x' and was given no data; pass data="),
    "one array": (fit(line, X), r"one array \(float, 3\).*data=\(array,\) or data=\{'x': array\}"),
    "a number": (fit(line, 3), r"the data are an? int; expected a tuple, a dict"),
    "too many": (fit(line, (X, X, X)), r"3 positional values arrived.*at most 2 \(x, y\)"),
    "unknown name": (fit(line, {"x": X, "Y": X}), r"no argument 'Y'; did you mean 'y'\?"),
    "missing name": (fit(line, {"y": X}), r"needs 'x', which the data lack; they have y"),
    "outside the support": (
        fit(counts, (np.array([1, -1]),)),
        r"'y' is -inf \(1 of 2 observations, first at \[1\], data -1\); check its data",
    ),
    "batch too large": (
        lambda tmp: ritz.data.batches((X, X), size=9),
        r"size is 9; expected from 1 to 3, the number of rows",
    ),
    "given with a target": (fit(two, (X,)), r"data arrived with a target that holds its own; pass"),
}
FILES = {
    "missing": (fit(line, "nowhere.csv"), r"no file 'nowhere.csv'; check the path"),
    "a folder": (lambda tmp: ritz.fit(line, tmp), r"Ritz reads .csv|is a folder; name a file"),
    "unknown kind": (fit(line, "rows.xlsx"), r"'rows.xlsx' is a .xlsx file; Ritz reads .csv"),
    "empty": (written("a.csv", b""), r"a.csv is empty"),
    "names only": (written("a.csv", b"x,y\n"), r"a.csv names 2 columns and has no rows"),
    "ragged": (written("a.csv", b"x,y\n1,2\n3\n"), r"a.csv is ragged: line 3 has 1 cells"),
    "binary": (written("a.csv", b"x,y\n\xff\xfe,1\n"), r"not UTF-8 text \(byte 4\); save it as"),
    "missing cell": (written("a.csv", b"x,y\n1,2\n,3\n"), r"'x' has a missing value in row 1"),
    "text column": (written("a.json", b'{"x": ["a", 1]}'), r"'x' in a.json mixes kinds"),
    "not JSON": (written("a.json", b"{"), r"a.json is not JSON"),
    "JSON list": (written("a.json", b"[1]"), r"a.json holds a list; expected an object"),
    "not NPZ": (written("a.npz", b"PK\x03\x04"), r"a.npz is not an NPZ file"),
    "not NetCDF": (written("a.nc", b"CDF?"), r"a.nc is not a NetCDF file"),
    "unknown data set": (lambda tmp: ritz.data.load("bostn"), r"no data set 'bostn'; did you mean"),
}
MODELS = {
    "unknown target": (lambda tmp: library.get("eight_school"), r"did you mean 'eight_schools'"),
    "a name": (fit("eight_schools"), r"a model arrived as str; expected a NumPyro model function"),
    "nothing": (fit(None), r"a model arrived as NoneType; expected a NumPyro model function"),
    "a number": (fit(3.5), r"a model arrived as float; expected a NumPyro model function"),
    "counted": (fit(infinite, (X,)), r"'kind' is discrete \(Poisson\).*only finite supports"),
    "discrete only": (fit(discrete_only, (X,)), r"discrete latent sites only \(kind\)"),
    "too many combinations": (
        fit(selected, (np.ones((2, 50)), np.ones(2)), discrete="summed"),
        r"'y' mixes the elements of site 'z' along plate 'columns': 2\^50 combinations.*4,096.*use",
    ),
    "-inf everywhere": (fit(wall), r"no starting point.*'wall' is -inf; .*give init="),
    "density is -inf": (
        fit(from_log_density(lambda x: x - jnp.inf, 0.0)),
        r"no starting point has a finite log density.*-inf; .*give init=",
    ),
    "no latent": (fit(no_latent, (X,)), r"'no_latent' has no latent site"),
    "a site twice": (fit(twice), r"'mu' \(line \d+ of test_bad_input.py\).*unique names"),
    "raises": (fit(raises, (X,)), r"'raises' failed \(line \d+ of test_bad_input.py\): KeyError"),
    "density of a vector": (
        lambda tmp: from_log_density(lambda x: x, X),
        r"returned shape \(3,\) at the example, expected one number: sum over the terms",
    ),
    "density that raises": (
        lambda tmp: from_log_density(lambda x: x.nope, X),
        r"fails at its example: .*nope",
    ),
    "no example": (lambda tmp: from_log_density(quadratic, {}), r"the example has no arrays; give"),
    "example of text": (
        lambda tmp: from_log_density(quadratic, {"a": "x"}),
        r"'a' has dtype <U1; expected real numbers",
    ),
    "example outside": (
        lambda tmp: from_log_density(quadratic, {"s": -1.0}, {"s": constraints.positive}),
        r"'s' = \[-1.\] is not \w+ its support positive",
    ),
    "constraint of nothing": (
        lambda tmp: from_log_density(quadratic, {"s": 1.0}, {"t": constraints.positive}),
        r"constraints name 't', which the example lacks; it has 's'",
    ),
    "constraint is text": (
        lambda tmp: from_log_density(quadratic, {"s": 1.0}, {"s": "positive"}),
        r"arrived as .*; expected one of numpyro.distributions.constraints",
    ),
    "not a target of its data": (
        lambda tmp: from_numpyro(line, (X, X[:2])),
        r"'y'.*\(2,\).*\(3,\).*reshape",
    ),
}
PARTS = {
    "steps: float": (fit(two, steps=2.5), r"steps=2.5 arrived, expected a whole number from 0 up"),
    "steps: text": (fit(two, steps="10"), r"steps='10' arrived, expected a whole number"),
    "lr: text": (fit(two, lr="0.1"), r"lr='0.1' arrived, expected a positive number"),
    "draws: float": (fit(two, draws=1.5), r"draws=1.5 arrived, expected a whole number from 1"),
    "seed: big": (fit(two, seed=10**30), r"expected an integer from 0 to 2\*\*32 - 1 or a JAX key"),
    "seed: array": (fit(two, seed=jnp.arange(3)), r"expected an integer from 0 to 2"),
    "seed: keys": (
        fit(two, seed=jax.random.split(jax.random.key(0), 3)),
        r"seed holds 3 keys, expected one",
    ),
    "objective: text": (
        fit(two, objective="elbo"),
        r"objective arrived as str, expected one of ritz.objective, such as .*negative_elbo\(\)",
    ),
    "estimator: not called": (
        fit(two, estimator=ritz.estimator.pathwise),
        r"estimator arrived as function, .* such as ritz.estimator.pathwise\(\)",
    ),
    "callbacks: function": (
        fit(two, callbacks=print),
        r"callbacks arrived as builtin_function_or_method, expected a list",
    ),
    "family: function that raises": (
        fit(two, family=lambda target, start: 1 / 0),
        r"the family '<lambda>' failed for 2 dimensions.*ZeroDivisionError",
    ),
    "family: unknown": (fit(two, family="meanfield"), r"'meanfield'; did you mean 'mean_field'\?"),
    "family: empty name": (fit(two, family=""), r"no family ''; choose from mean_field, full_rank"),
    "family: number": (fit(two, family=3), r"arrived as int; expected a name \(mean_field, full_"),
    "family: class": (fit(two, family=MeanField), r"a family arrived as .*expected a name"),
    "family: function of None": (
        fit(two, family=lambda target, start: None),
        r"arrived as NoneType; expected a name",
    ),
    "family: dimension": (
        fit(two, family=MeanField(jnp.zeros(3), jnp.zeros(3))),
        r"MeanField has 3 dimensions, but the target has 2 dimensions.*dim=2",
    ),
    "family: other dimension": (
        fit(line, (X, X), family=lambda target, start: FullRank(*jnp.ones((2, 2)), jnp.eye(2))),
        r"FullRank has 2 dimensions, but the target has 1 dimensions.*\(slope\).*dim=1",
    ),
    "family: no entropy": (
        fit(two, family=made(NoEntropy), objective=ritz.objective.negative_elbo()),
        r"NegativeELBO needs .*entropy, which NoEntropy lacks; one that works: mean_field",
    ),
    "family: no log_prob": (
        fit(two, family=made(NoLogProb), objective=negative_elbo(entropy="mc")),
        r"NegativeELBO needs .*log_prob, which NoLogProb lacks; one that works: mean_field",
    ),
    "family: not reparameterised": (
        fit(two, family=made(NotReparameterised), estimator=ritz.estimator.pathwise()),
        r"Pathwise cannot estimate NotRepar\w*.*: its draws are not differentiable; use score\(\)",
    ),
    "steps: negative": (fit(two, steps=-1), r"steps=-1 arrived, expected"),
    "lr: zero": (fit(two, lr=0.0), r"lr=0.0 arrived, expected a positive number such as 0.02"),
    "lr: negative": (fit(two, lr=-1.0), r"lr=-1.0 arrived, expected a positive number"),
    "lr: nan": (fit(two, lr=NAN), r"lr=nan arrived, expected a positive number"),
    "lr: inf": (fit(two, lr=INF), r"lr=inf arrived, expected a positive number"),
    "draws: zero": (fit(two, draws=0), r"draws=0 arrived, expected a whole number from 1 up"),
    "draws: negative": (fit(two, draws=-3), r"draws=-3 arrived, expected a whole number from 1 up"),
    "seed: truth value": (fit(two, seed=True), r"seed=True arrived, expected an integer from 0"),
    "solver: name": (fit(two, solver="adaam"), r"no solver 'adaam'; did you mean 'adam'"),
    "solver: number": (fit(two, solver=0.1), r"a solver arrived as float; expected an Optax"),
    "solver: not called": (fit(two, solver=optax.adam), r"arrived as function; expected an Optax"),
    "adam: no steps": (
        lambda tmp: ritz.solver.adam(steps=0),
        r"steps=0 arrived, expected a whole number from 1",
    ),
    "init: unknown site": (fit(line, (X, X), init={"b": 1.0}), r"no latent site 'b'.*has slope"),
    "init: shape": (fit(line, (X, X), init={"slope": X}), r"'slope' has shape \(\).*\(3,\)"),
    "init: list": (fit(line, (X, X), init=[1.0]), r"arrived as list, expected a dict of site"),
    "init: nan": (fit(two, init=jnp.array([NAN, 0.0])), r"init for site 'theta' is outside"),
    "init: pytree": (fit(two, init={"b": 1.0}), r"structure .*expected that of the example"),
}
RESULTS = {
    "load: nothing there": (lambda tmp: ritz.load(tmp / "fit"), r"no fit at .*fit.save"),
    "load: a folder": (
        lambda tmp: ritz.load(tmp),
        r"no fit at .*expected a directory with fit.json",
    ),
    "save: taken": (saved_over, r"exists and is not a saved fit; give another path or remove it"),
    "sample: none": (
        lambda tmp: fitted().sample(0),
        r"n=0 arrived, expected a whole number from 1 up",
    ),
    "log_prob: site": (lambda tmp: fitted().log_prob({"b": 0.0}), r"lack site 'slope'"),
    "predict: unknown": (
        lambda tmp: fitted().predict({"q": X}),
        r"no argument 'q'; choose from",
    ),
}


TABLE = {
    f"{group}, {name}": row
    for group, rows in (
        ("data", DATA), ("file", FILES), ("model", MODELS), ("part", PARTS), ("result", RESULTS)
    )
    for name, row in rows.items()
}  # fmt: skip


@pytest.mark.parametrize(("call", "says"), TABLE.values(), ids=TABLE)
def test_one_line(call, says, tmp_path):
    with pytest.raises(RitzError) as caught:
        call(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert not message.endswith(".")
    assert re.search(says, message), message


def test_check_says_the_same_without_raising():
    with pytest.raises(RitzError) as caught:
        ritz.fit(discrete_only, (X,))
    found = ritz.check(discrete_only, (X,))
    assert not found.ok
    assert found.problems == (str(caught.value),)
    assert jax.tree.leaves(found.rows) == []
