"""Fits as files: what comes back, what is refused, and what an accident leaves."""

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import ritz
from ritz import RitzError, io
from ritz.family import FullRank, MeanField
from ritz.solver import History
from ritz.target import from_log_density

DATA = {"y": np.array([28.0, 8.0, -3.0, 7.0]), "sigma": np.array([15.0, 10.0, 16.0, 11.0])}


def schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(sigma)):
        eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * eta)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)
    numpyro.deterministic("positive", mu > 0)


def nested():
    """A log density of a pytree whose parts have several supports."""

    def density(p):
        scale, (corner, weights) = p["scale"], p["rest"]
        return -scale + (jnp.log(weights) - corner**2).sum()

    example = {"scale": 1.0, "rest": (np.zeros((2, 3)), np.full(3, 1 / 3))}
    wanted = {"scale": constraints.positive, "rest": (constraints.real_matrix, constraints.simplex)}
    return from_log_density(density, example, wanted)


def two_sites():
    """The smallest target with a constrained site: quick to save, load and break."""
    gamma = lambda p: jnp.log(p["rate"]) - 2.0 * p["rate"] - 0.5 * p["b"] ** 2
    return from_log_density(gamma, {"b": 0.0, "rate": 1.0}, {"rate": constraints.positive})


@pytest.fixture(scope="module")
def fitted():
    return ritz.fit(schools, DATA, steps=60, seed=1)


@pytest.fixture(scope="module")
def tiny():
    return ritz.fit(two_sites(), steps=30, family="mean_field")


def same_arrays(one, two):
    leaves, structure = jax.tree.flatten(one)
    others, other_structure = jax.tree.flatten(two)
    assert structure == other_structure
    for a, b in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


def use(fit):
    """What every fit can do."""
    fit.sample(2, jax.random.key(0))
    fit.mean(), fit.cov(), fit.history.windows()
    str(fit.summary()), fit.summary()._repr_html_()
    if hasattr(fit, "log_prob"):
        fit.log_prob({site.name: fit.draws[site.name][:2] for site in fit.target.sites})


def outcome(path, **given):
    """The fit that a directory holds, or the one line with which it is refused."""
    try:
        return ritz.load(path, **given)
    except RitzError as error:
        (line,) = str(error).splitlines()
        return line


def error_of(path, **given):
    """The one line with which a load is refused."""
    line = outcome(path, **given)
    assert isinstance(line, str)
    return line


def state_of(path):
    """Which fit a directory holds: its stop_reason, which tests use as its name."""
    return ritz.load(path).stop_reason


def renamed(fit, name):
    return dataclasses.replace(fit, stop_reason=name)


# -- what comes back ------------------------------------------------------------------------


def test_round_trip_without_the_model(fitted, tmp_path):
    path = fitted.save(tmp_path / "fit")
    loaded = ritz.load(path)
    same_arrays(loaded.draws, fitted.draws)
    same_arrays(loaded.sample(7), {name: v[:7] for name, v in fitted.draws.items()})
    same_arrays((loaded.mean(), loaded.sd()), (fitted.mean(), fitted.sd()))
    same_arrays(loaded.cov(), fitted.cov())
    same_arrays(loaded.history.columns, fitted.history.columns)
    same_arrays(jax.tree.leaves(loaded.q), jax.tree.leaves(fitted.q))
    assert type(loaded.q) is type(fitted.q)
    assert loaded.labels == fitted.labels
    assert str(loaded.summary()) == str(fitted.summary())
    assert loaded.info == fitted.info
    assert (loaded.elbo, loaded.khat) == (fitted.elbo, fitted.khat)
    assert (loaded.stop_reason, loaded.message) == (fitted.stop_reason, fitted.message)
    assert loaded.history.every == fitted.history.every
    assert list(loaded.sample(2)) == ["mu", "tau", "eta", "theta", "positive"]
    draws = fitted.sample(5)
    np.testing.assert_allclose(loaded.log_prob(draws), fitted.log_prob(draws), rtol=1e-5)


def test_without_the_model_what_needs_it_is_absent(fitted, tmp_path):
    loaded = ritz.load(fitted.save(tmp_path / "fit"))
    for name in ("predict", "prior_predict", "log_weights", "log_likelihood", "observed_data"):
        assert hasattr(fitted, name)
        assert not hasattr(loaded, name)
    with pytest.raises(RitzError, match=r"4001 arrived.*ritz\.load\(path, model, data\)"):
        loaded.sample(4001)
    with pytest.raises(RitzError, match="without its model"):
        loaded.target.log_density(jnp.zeros(6))


def test_round_trip_with_model_and_data_gives_the_same_bits(fitted, tmp_path):
    loaded = ritz.load(fitted.save(tmp_path / "fit"), schools, DATA)
    key = jax.random.key(5)
    for a, b in ((fitted, loaded), (loaded, fitted)):
        same_arrays(a.sample(10), b.sample(10))
        same_arrays(a.sample(10, key), b.sample(10, key))
        same_arrays(a.log_prob(b.sample(10)), b.log_prob(a.sample(10)))
    same_arrays(loaded.log_weights(20), fitted.log_weights(20))
    same_arrays(loaded.predict(n=10), fitted.predict(n=10))
    same_arrays(loaded.prior_predict(n=10), fitted.prior_predict(n=10))
    same_arrays(loaded.log_likelihood(), fitted.log_likelihood())
    same_arrays(loaded.observed_data(), fitted.observed_data())
    assert ritz.fit(schools, DATA, init=loaded, steps=5).info["start"] == "an earlier fit"


def test_fit_goes_on_from_a_loaded_one_without_its_model(fitted, tmp_path):
    loaded = ritz.load(fitted.save(tmp_path / "fit"))
    assert ritz.fit(schools, DATA, init=loaded, steps=5).info["start"] == "an earlier fit"


def test_arviz_from_a_loaded_fit(fitted, tmp_path):
    path = fitted.save(tmp_path / "fit")
    one, two = ritz.load(path).to_arviz(), fitted.to_arviz()
    assert one.posterior.equals(two.posterior)
    assert one.posterior["theta"].dims == ("chain", "draw", "school")
    assert one.groups() == ["posterior"]
    assert ritz.load(path, schools, DATA).to_arviz().groups() == two.groups()


def test_fit_of_a_pytree(tmp_path):
    target = nested()
    fit = ritz.fit(target, steps=0, family="mean_field")
    path = fit.save(tmp_path / "fit")
    with_target, without = ritz.load(path, target), ritz.load(path)
    draws = fit.sample(6)
    same_arrays(with_target.sample(6), draws)
    same_arrays(with_target.log_prob(draws), fit.log_prob(draws))
    by_name = without.sample(6)
    assert set(by_name) == {"scale", "rest.0", "rest.1"}
    same_arrays(by_name["rest.1"], draws["rest"][1])
    np.testing.assert_allclose(without.log_prob(by_name), fit.log_prob(draws), rtol=1e-5)


SUPPORTS = {
    "real": constraints.real,
    "positive": constraints.positive,
    "unit_interval": constraints.unit_interval,
    "interval": constraints.interval(-1.5, 2.5),
    "greater_than": constraints.greater_than(-2.0),
    "less_than": constraints.less_than(3.0),
    "simplex": constraints.simplex,
    "ordered_vector": constraints.ordered_vector,
    "positive_ordered_vector": constraints.positive_ordered_vector,
    "corr_cholesky": constraints.corr_cholesky,
    "corr_matrix": constraints.corr_matrix,
    "lower_cholesky": constraints.lower_cholesky,
    "positive_definite": constraints.positive_definite,
    "independent": constraints.independent(constraints.interval(0.0, 2.0), 1),
}


def test_every_support_is_known_by_name(tiny, tmp_path):
    start = {
        "real": 0.0,
        "simplex": np.full(3, 1 / 3),
        "ordered_vector": np.arange(3.0),
        "positive_ordered_vector": np.arange(1.0, 4.0),
        "independent": np.full(3, 0.5),
    }
    start |= dict.fromkeys(
        ("corr_cholesky", "corr_matrix", "lower_cholesky", "positive_definite"), np.eye(3)
    )
    example = {name: start.get(name, 0.5) for name in SUPPORTS}
    target = from_log_density(lambda p: p["real"], example, SUPPORTS)
    x = 0.3 * jax.random.normal(jax.random.key(0), (target.dim,))
    stored = {name: np.tile(v, (4000, *[1] * v.ndim)) for name, v in target.constrain(x).items()}
    fit = dataclasses.replace(tiny, target=target, q=MeanField(x, x))
    fit.restore({"values": stored, "x": np.tile(x, (4000, 1))})
    loaded = ritz.load(fit.save(tmp_path / "fit")).target
    values = loaded.constrain(x)
    same_arrays({k: values[k] for k in SUPPORTS}, {k: stored[k][0] for k in SUPPORTS})
    np.testing.assert_allclose(loaded.unconstrain(values), x, atol=1e-4)
    np.testing.assert_allclose(loaded.log_det(x), target.log_det(x), rtol=1e-4)


def test_support_that_depends_on_another_site(tmp_path):
    def model():
        top = numpyro.sample("top", dist.HalfNormal(1.0))
        numpyro.sample("below", dist.Uniform(0.0, top))

    fit = ritz.fit(model, steps=0, family="mean_field")
    path = fit.save(tmp_path / "fit")
    without, with_model = ritz.load(path), ritz.load(path, model)
    assert hasattr(fit, "log_prob")
    assert not hasattr(without, "log_prob")
    same_arrays(without.draws, fit.draws)
    use(without)
    same_arrays(with_model.log_prob(fit.sample(3)), fit.log_prob(fit.sample(3)))


@pytest.mark.parametrize("saved_as", [False, True])
def test_fit_of_one_precision_loads_in_the_other(tmp_path, saved_as):
    with jax.enable_x64(saved_as):
        fit = ritz.fit(two_sites(), steps=20)
        path = fit.save(tmp_path / "fit")
        draws = fit.sample(4)
        expected = fit.log_prob(draws)
    assert draws["b"].dtype == (np.float64 if saved_as else np.float32)
    with jax.enable_x64(not saved_as):
        loaded, with_target = ritz.load(path), ritz.load(path, two_sites())
        same_arrays(loaded.draws, fit.draws)
        np.testing.assert_allclose(loaded.log_prob(draws), expected, rtol=1e-4)
        np.testing.assert_allclose(with_target.log_prob(draws), expected, rtol=1e-4)
        assert with_target.sample(3)["b"].dtype == (np.float32 if saved_as else np.float64)
        use(loaded)
        ritz.load(loaded.save(tmp_path / "again"))


def test_fit_that_made_no_step(tiny, tmp_path):
    fit = ritz.fit(tiny.target, steps=0, family="mean_field")
    loaded = ritz.load(fit.save(tmp_path / "fit"))
    assert len(loaded.history) == 0
    use(loaded)


def test_history_and_reason_of_the_stop(tiny, tmp_path):
    columns = {
        "loss": np.arange(5, dtype=np.float32),
        "loss_se": np.full(5, np.nan, np.float32),
        "accepted": np.array([True, False, True, True, True]),
    }
    fit = dataclasses.replace(
        tiny, history=History(columns, every=8), stop_reason="interrupted", message="σ: it's"
    )
    loaded = ritz.load(fit.save(tmp_path / "fit"))
    same_arrays(loaded.history.columns, columns)
    same_arrays(loaded.history.step, np.array([8, 16, 24, 32, 40]))
    assert (loaded.stop_reason, loaded.message) == ("interrupted", "σ: it's")
    assert loaded.reasons[0] == "σ: it's"


def test_key_of_another_kind(tiny, tmp_path):
    fit = dataclasses.replace(tiny, key=jax.random.key(3, impl="rbg"))
    loaded = ritz.load(fit.save(tmp_path / "fit"), tiny.target)
    same_arrays(loaded.sample(5), fit.sample(5))


def test_table_is_coded_as_in_the_fit(tmp_path):
    def model(group, n_group, y=None):
        with numpyro.plate("groups", n_group):
            mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        numpyro.sample("y", dist.Normal(mean[group], 0.01), obs=y)

    table = tmp_path / "rows.csv"
    table.write_text("group,y\na,0.0\nb,1.0\nc,2.0\n")
    fit = ritz.fit(model, table, steps=1500, lr=0.1)
    path = fit.save(tmp_path / "fit")
    new = tmp_path / "new.csv"
    new.write_text("group\nc\n")
    assert abs(ritz.load(path, model, table).predict(new, n=50)["y"].mean() - 2.0) < 0.1


FRESH = """
import hashlib, json, sys
import jax, numpy as np
import ritz

out = {}
for path in sys.argv[1:]:
    fit = ritz.load(path)
    draws = fit.sample(100, jax.random.key(3))
    out[path] = {
        "hash": hashlib.sha256(b"".join(v.tobytes() for v in draws.values())).hexdigest(),
        "mean": {name: np.asarray(v).tolist() for name, v in fit.mean().items()},
        "summary": str(fit.summary()),
        "groups": fit.to_arviz().groups(),
        "log_prob": fit.log_prob(draws).tolist(),
    }
print(json.dumps(out))
"""


def test_fresh_process_without_model_or_data(fitted, tmp_path):
    fits = {"model": fitted, "density": ritz.fit(nested(), steps=0, family="mean_field")}
    paths = {name: str(fit.save(tmp_path / name)) for name, fit in fits.items()}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FRESH, *paths.values()],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, fit in fits.items():
        found, here = json.loads(done.stdout)[paths[name]], ritz.load(paths[name])
        draws = here.sample(100, jax.random.key(3))
        bits = b"".join(v.tobytes() for v in draws.values())
        assert found["hash"] == hashlib.sha256(bits).hexdigest()
        assert found["summary"] == str(fit.summary())
        assert found["groups"] == ["posterior"]
        for site, value in here.mean().items():
            np.testing.assert_array_equal(found["mean"][site], value)
        expected = fit.log_prob(fit.target.pack(draws))
        np.testing.assert_allclose(found["log_prob"], expected, rtol=1e-5)


# -- families -------------------------------------------------------------------------------


class Wide(MeanField):
    """Nobody has registered this one."""


def wide(target, start):
    return Wide(loc=start, log_scale=jnp.zeros_like(start))


def test_unregistered_family_is_asked_for(tiny, tmp_path):
    fit = ritz.fit(tiny.target, family=wide, steps=20)
    path = fit.save(tmp_path / "fit")
    line = error_of(path)
    assert "Wide" in line
    assert "not registered" in line
    assert "family=..." in line
    for given in (wide, fit.q, Wide(jnp.zeros(2), jnp.zeros(2))):
        loaded = ritz.load(path, family=given)
        same_arrays(jax.tree.leaves(loaded.q), jax.tree.leaves(fit.q))
        same_arrays(loaded.draws, fit.draws)
        np.testing.assert_allclose(
            loaded.log_prob(loaded.sample(3)), fit.log_prob(fit.sample(3)), rtol=1e-5
        )
    assert "2 dimensions" in error_of(path, family=Wide(jnp.zeros(3), jnp.zeros(3)))
    assert "is Wide, but MeanField was given" in error_of(path, family="mean_field")
    assert "no family 'wide'" in error_of(path, family="wide")
    assert "arrived as int" in error_of(path, family=3)


def test_family_of_another_structure(tiny, tmp_path):
    path = tiny.save(tmp_path / "fit")
    wrong = FullRank(jnp.zeros(2), jnp.zeros(2), jnp.zeros((2, 2)))
    assert "is MeanField, but FullRank was given" in error_of(path, family=wrong)
    wrong = eqx.tree_at(lambda q: q.log_scale, tiny.q, jnp.zeros(3))
    line = error_of(path, family=wrong)
    assert "[(2,), (2,)]" in line
    assert "[(2,), (3,)]" in line


# -- the model ------------------------------------------------------------------------------


def test_model_of_other_sites_is_refused(fitted, tmp_path):
    path = fitted.save(tmp_path / "fit")

    def other(sigma, y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)

    assert "6 dimensions" in error_of(path, model=other, data=DATA)
    fewer = {name: values[:3] for name, values in DATA.items()}
    assert "5 dimensions" in error_of(path, model=schools, data=fewer)
    assert "needs 'sigma'" in error_of(path, model=schools)
    assert "arrived as int" in error_of(path, model=3)


def test_model_of_another_support_is_refused(tiny, tmp_path):
    path = tiny.save(tmp_path / "fit")
    unbounded = from_log_density(lambda p: -(p["rate"] ** 2) - p["b"] ** 2, {"b": 0.0, "rate": 1.0})
    line = error_of(path, model=unbounded)
    assert "'rate' has support positive" in line
    assert "but real in the model" in line


# -- where it is saved ----------------------------------------------------------------------


def test_save_over_an_old_fit_keeps_what_else_is_there(tiny, tmp_path):
    path = tmp_path / "a" / "b" / "fit"
    for name in ("one", "two", "three"):
        assert renamed(tiny, name).save(path) == path
        (path / "notes.txt").write_text("mine")
        assert state_of(path) == name
    assert sorted(file.suffix for file in path.iterdir()) == [".json", ".npz", ".txt"]


def test_save_into_an_empty_folder_a_link_and_home(tiny, tmp_path, monkeypatch):
    empty, link = tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    tiny.save(empty)
    link.symlink_to(empty)
    renamed(tiny, "through the link").save(link)
    assert link.is_symlink()
    assert state_of(empty) == "through the link"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    renamed(tiny, "home").save("~/fits/mine")
    assert state_of("~/fits/mine") == state_of("fits/mine") == "home"


def taken_file(path):
    path.write_text("mine")


def taken_folder(path):
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def taken_name(path):
    path.mkdir()
    (path / "fit.json").write_text('{"legs": 2}')


def taken_link(path):
    path.symlink_to(path.parent / "nowhere")


def taken_parent(path):
    path.parent.rmdir()
    path.parent.write_text("mine")


@pytest.mark.parametrize(
    "take",
    [taken_file, taken_folder, taken_name, taken_link, taken_parent],
    ids=lambda f: f.__name__,
)
def test_place_that_is_taken_is_refused_and_left_alone(tiny, tmp_path, take):
    path = tmp_path / "folder" / "fit"
    path.parent.mkdir()
    take(path)
    before = contents(tmp_path)
    for refuse in (tiny.save, io.check_place):
        with pytest.raises(RitzError, match=r"not a saved fit|cannot save") as caught:
            refuse(path)
        assert str(path) in str(caught.value)
    assert contents(tmp_path) == before


def contents(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["savez", "first fsync", "second fsync", "replace"])
def test_save_that_fails_leaves_the_old_fit(tiny, tmp_path, monkeypatch, at, error):
    path, new = tmp_path / "old", tmp_path / "new"
    renamed(tiny, "old").save(path)
    before = contents(path)
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        if at != "second fsync" or len(calls) == 2:
            calls.clear()
            raise error

    owner = np if at == "savez" else os
    monkeypatch.setattr(owner, at.split()[-1], fail)
    for place in (path, new):
        with pytest.raises(
            RitzError if isinstance(error, OSError) else KeyboardInterrupt
        ) as caught:
            renamed(tiny, "new").save(place)
        if isinstance(error, OSError):
            assert str(caught.value) == f"cannot save the fit to {place}: No space left on device"
    monkeypatch.undo()
    assert contents(path) == before
    assert contents(new) == {}
    assert "no fit at" in error_of(new)
    renamed(tiny, "new").save(new)
    assert state_of(new) == "new"


def test_interrupt_just_after_the_replacement_keeps_the_new_fit(tiny, tmp_path, monkeypatch):
    path, replace = tmp_path / "fit", os.replace

    def late(*args):
        replace(*args)
        raise KeyboardInterrupt

    renamed(tiny, "old").save(path)
    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(KeyboardInterrupt):
        renamed(tiny, "new").save(path)
    assert state_of(path) == "new"


class Killed(BaseException):
    """Stands for SIGKILL: nothing runs after it."""


def test_kill_at_any_moment_leaves_the_old_fit_or_the_new_one(tiny, tmp_path, monkeypatch):
    """Die before each system call of a save in turn; no clean-up runs."""
    seen = set()
    for moment in range(20):
        path = tmp_path / str(moment)
        renamed(tiny, "old").save(path)
        left = moment

        def dying(call):
            def wrapped(*args, **kwargs):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return call(*args, **kwargs)

            return wrapped

        calls = [(np, "savez"), (os, "fsync"), (os, "replace"), (os, "unlink"), (os, "mkdir")]
        for owner, name in calls:
            monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
        with contextlib.suppress(Killed):
            renamed(tiny, "new").save(path)
        monkeypatch.undo()
        seen.add(state_of(path))
        time.sleep(0.01)
        renamed(tiny, "later").save(path)
        time.sleep(0.01)
        renamed(tiny, "latest").save(path)
        assert state_of(path) == "latest"
        assert len(list(path.iterdir())) == 2, "what the kill left is cleared away"
        if left >= 0:
            break
    assert moment >= 4
    assert seen == {"old", "new"}


def test_first_save_that_was_killed_can_be_made_again(tiny, tmp_path):
    path = tmp_path / "fit"
    tiny.save(path)
    (path / "fit.json").rename(path / f"fit-{'0' * 16}.tmp")
    assert "no fit at" in error_of(path)
    tiny.save(path)
    assert state_of(path) == tiny.stop_reason


WRITER = """
import dataclasses, itertools, sys
import ritz

one, two = ritz.load(sys.argv[1]), ritz.load(sys.argv[2])
print("ready", flush=True)
for fit in itertools.cycle((one, two)):
    fit.save(sys.argv[3])
"""


def test_readers_and_a_kill_while_another_process_saves(tiny, tmp_path):
    one, two, path = tmp_path / "one", tmp_path / "two", tmp_path / "fit"
    renamed(tiny, "one").save(one)
    renamed(tiny, "two").save(two)
    renamed(tiny, "one").save(path)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, *map(str, (one, two, path))], stdout=subprocess.PIPE
    ) as writer:
        try:
            assert writer.stdout.readline() == b"ready\n"
            end, seen = time.monotonic() + 2.0, set()
            while time.monotonic() < end:
                seen.add(state_of(path))
        finally:
            writer.kill()
    assert seen == {"one", "two"}
    assert state_of(path) in {"one", "two"}


# -- what is refused ------------------------------------------------------------------------


def test_nothing_is_unpickled(tiny, tmp_path):
    path, bait = tmp_path / "fit", tmp_path / "executed"

    class Bait:
        def __reduce__(self):
            return (open, (str(bait), "w"))

    tiny.save(path)
    (arrays,) = path.glob("*.npz")
    content = dict(np.load(arrays))
    np.savez(arrays, **content | {"x": np.array([Bait()], dtype=object)})
    line = error_of(path)
    assert arrays.name in line
    assert "pickle" in line
    arrays.write_bytes(pickle.dumps(Bait()))
    error_of(path)
    assert not bait.exists()


def test_missing_files(tiny, tmp_path):
    path = tmp_path / "fit"
    assert "ritz fit --out" in error_of(path)
    tiny.save(path)
    (arrays,) = path.glob("*.npz")
    arrays.unlink()
    assert "one of its files is missing" in error_of(path)
    (path / "fit.json").unlink()
    assert "fit.json" in error_of(path)
    (tmp_path / "file").write_text("mine")
    assert "no fit at" in error_of(tmp_path / "file")


def test_fit_of_another_format(tiny, tmp_path):
    path = tiny.save(tmp_path / "fit")
    edit(path, lambda meta: meta.update(format=2))
    assert "has format 2; this Ritz reads format 1" in error_of(path)


def edit(path, change):
    """Change what a fit's JSON says."""
    meta = json.loads((path / "fit.json").read_text())
    change(meta)
    (path / "fit.json").write_text(json.dumps(io.signed(meta)))


def set_at(*place):
    """A change of one value: the last argument, at the place before it."""
    *keys, last, value = place

    def change(meta):
        for key in keys:
            meta = meta[key]
        if value is DROP:
            del meta[last]
        else:
            meta[last] = value

    return change


DROP = object()
HUGE = 10**30
TOP = ("info", "stop_reason", "message", "family", "key", "history_every", "sites", "arrays")
HOSTILE = {
    **{f"lacks {key}": set_at(key, DROP) for key in (*TOP, "observed", "deterministic")},
    **{f"{key} is null": set_at(key, None) for key in TOP},
    **{f"{key} is a number": set_at(key, 1.5) for key in TOP},
    **{f"{key} is a list": set_at(key, [[]]) for key in TOP},
    **{
        f"site without {key}": set_at("sites", 0, key, DROP)
        for key in (
            "name",
            "shape",
            "unconstrained_shape",
            "start",
            "support",
            "constraint",
            "dims",
        )
    },
    "no site": set_at("sites", []),
    "site is text": set_at("sites", 0, "mu"),
    "sites overlap": set_at("sites", 1, "start", 0),
    "sites leave a gap": set_at("sites", 1, "start", 2),
    "huge start": set_at("sites", 1, "start", HUGE),
    "negative start": set_at("sites", 0, "start", -1),
    "start is text": set_at("sites", 1, "start", "1"),
    "start is true": set_at("sites", 1, "start", True),
    "huge shape": set_at("sites", 0, "shape", [HUGE]),
    "huge shape with a name": lambda meta: meta["sites"][0].update(shape=[HUGE], dims=["a"]),
    "huge free shape": set_at("sites", 1, "unconstrained_shape", [HUGE]),
    "negative size": lambda meta: meta["sites"][0].update(shape=[-1], dims=["a"]),
    "two negative sizes": set_at("sites", 1, "unconstrained_shape", [-1, -1]),
    "size is text": lambda meta: meta["sites"][0].update(shape=["1"], dims=["a"]),
    "size is no integer": lambda meta: meta["sites"][0].update(shape=[1.0], dims=["a"]),
    "size is nan": lambda meta: meta["sites"][0].update(shape=[float("nan")], dims=["a"]),
    "shape is text": set_at("sites", 0, "shape", "12"),
    "shape of the draws": lambda meta: meta["sites"][0].update(shape=[1], dims=["a"]),
    "axis without a name": lambda meta: meta["sites"][0].update(shape=[1], dims=[]),
    "axes of one name": lambda meta: meta["observed"].append(
        {"name": "y", "shape": [1, 1], "dims": ["a", "a"]}
    ),
    "name is a number": set_at("sites", 0, "name", 3),
    "name is a list": set_at("sites", 0, "name", ["b"]),
    "name of no array": set_at("sites", 0, "name", "../../etc/passwd"),
    "half a surrogate pair": set_at("message", "\ud800"),
    "two sites of one name": set_at("sites", 0, "name", "rate"),
    "site and deterministic of one name": lambda meta: meta["deterministic"].append(
        {"name": "b", "shape": [], "dims": []}
    ),
    "deterministic without draws": lambda meta: meta["deterministic"].append(
        {"name": "c", "shape": [], "dims": []}
    ),
    "constraint is text": set_at("sites", 1, "constraint", "positive"),
    "constraint is a number": set_at("sites", 1, "constraint", 3),
    "constraint is empty": set_at("sites", 1, "constraint", []),
    "constraint is an object": set_at("sites", 1, "constraint", {"a": 1}),
    "constraint unknown": set_at("sites", 1, "constraint", ["__class__"]),
    "constraint of another shape": set_at("sites", 1, "constraint", ["simplex"]),
    "constraint of a matrix": set_at("sites", 1, "constraint", ["corr_cholesky"]),
    "interval without bounds": set_at("sites", 1, "constraint", ["interval"]),
    "interval with many bounds": set_at("sites", 1, "constraint", ["interval", 0, 1, 2]),
    "interval with text": set_at("sites", 1, "constraint", ["interval", "a", "b"]),
    "interval with a list": set_at("sites", 1, "constraint", ["interval", [0], [1]]),
    "interval beyond floats": set_at("sites", 1, "constraint", ["interval", 0, 10**400]),
    "independent of nothing": set_at("sites", 1, "constraint", ["independent"]),
    "independent of text": set_at("sites", 1, "constraint", ["independent", "x", "real"]),
    "independent of a number": set_at("sites", 1, "constraint", ["independent", 1, 2]),
    "constraint within constraints": lambda meta: meta["sites"][1].update(
        constraint=nest(["real"], 300)
    ),
    "no info on steps": set_at("info", "steps", DROP),
    "steps are text": set_at("info", "steps", "10"),
    "seconds are text": set_at("info", "run_seconds", "0"),
    "solver is null": set_at("info", "solver", None),
    "history_every is 0": set_at("history_every", 0),
    "history_every is huge text": set_at("history_every", "9" * 50),
    "history_every is nan": set_at("history_every", float("nan")),
    "history_every is infinite": set_at("history_every", float("inf")),
    "key unknown": set_at("key", "threefry"),
    "key of another size": set_at("key", "rbg"),
    "family unknown": set_at("family", "name", "nope"),
    "family is a list": set_at("family", "name", ["mean_field"]),
    "family of another class": set_at("family", "kind", "FullRank"),
    "family of another name": set_at("family", "name", "full_rank"),
    "arrays elsewhere": set_at("arrays", "../fit/arrays-0123456789abcdef.npz"),
    "arrays at the root": set_at("arrays", "/etc/passwd"),
    "arrays of another name": set_at("arrays", "fit.json"),
    "format is text": set_at("format", "1"),
    "format is a list": set_at("format", [1]),
}


def nest(value, depth):
    for _ in range(depth):
        value = ["independent", 0, value]
    return value


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("whole") / "fit")


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_json_is_refused(whole, tmp_path, change):
    path = tmp_path / "fit"
    shutil.copytree(whole, path)
    edit(path, change)
    assert str(path) in error_of(path)


TEXTS = ["", "{", "[]", "3", "null", '"fit"', "1e", "\udcff", "9" * 5000, "[" * 100_000]


@pytest.mark.parametrize("text", [*TEXTS, '{"format":' * 5000], ids=range(11))
def test_text_that_is_no_fit_is_refused(whole, tmp_path, text):
    path = tmp_path / "fit"
    shutil.copytree(whole, path)
    (path / "fit.json").write_bytes(text.encode(errors="surrogateescape"))
    assert str(path) in error_of(path)


def array_of(name, value):
    return lambda arrays: arrays.update({name: value})


WRONG_ARRAYS = {
    **{f"lacks {name}": lambda arrays, name=name: arrays.pop(name) for name in ("x", "key")},
    **{
        f"lacks {name}": lambda arrays, name=name: arrays.pop(name)
        for name in ("draws/b", "family/0", "family/1", "history/loss")
    },
    "few draws": array_of("draws/b", np.zeros(10, np.float32)),
    "draws of whole numbers": array_of("draws/b", np.zeros(4000, int)),
    "draws of text": array_of("draws/b", np.full(4000, "a")),
    "complex draws": array_of("draws/b", np.zeros(4000, complex)),
    "draws of records": array_of("draws/b", np.zeros(4000, [("a", float)])),
    "x of another size": array_of("x", np.zeros((4000, 3), np.float32)),
    "few weights": array_of("log_weights", np.zeros(7, np.float32)),
    "ragged history": array_of("history/loss_se", np.zeros(7, np.float32)),
    "history of text": array_of("history/loss", np.full(30, "a")),
    "history of matrices": array_of("history/loss", np.zeros((30, 2), np.float32)),
    "key of floats": array_of("key", np.zeros(2)),
    "key of another shape": array_of("key", np.zeros(5, np.uint32)),
    "several keys": array_of("key", np.zeros((3, 2), np.uint32)),
    "parameters of another shape": array_of("family/0", np.zeros(3, np.float32)),
    "parameters that are complex": array_of("family/0", np.zeros(2, complex)),
    "parameters of text": array_of("family/0", np.array(["a", "b"])),
    "more parameters": array_of("family/2", np.zeros(2, np.float32)),
    "parameters misnumbered": array_of("family/7", np.zeros(2, np.float32)),
}


@pytest.mark.parametrize("change", WRONG_ARRAYS.values(), ids=WRONG_ARRAYS)
def test_arrays_that_do_not_fit_are_refused(whole, tmp_path, change):
    path = tmp_path / "fit"
    shutil.copytree(whole, path)
    (file,) = path.glob("*.npz")
    with np.load(file) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(file, **arrays)
    assert str(path) in error_of(path)


def test_member_that_claims_to_be_huge(whole, tmp_path):
    """A header alone must not make NumPy take memory for what the file does not hold."""
    path = tmp_path / "fit"
    shutil.copytree(whole, path)
    (file,) = path.glob("*.npz")
    with zipfile.ZipFile(file, "a") as archive, archive.open("more.npy", "w") as member:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(member, header)
    assert file.name in error_of(path)


def test_damage_gives_a_fit_or_one_line(whole, tmp_path):
    """Flip and cut bytes of both files; whatever loads must be usable, the rest is refused."""
    rng = np.random.default_rng(0)
    path = tmp_path / "fit"
    shutil.copytree(whole, path)
    (arrays,) = path.glob("*.npz")
    refused = loaded = 0
    for file, cases in ((path / "fit.json", 300), (arrays, 300)):
        original = file.read_bytes()
        # Most of the arrays' file is numbers; names, headers and the directory are at its ends.
        ends = np.r_[0:400, len(original) - 1200 : len(original)] % len(original)
        for case in range(cases):
            broken = bytearray(original)
            if case % 4 == 3:
                del broken[rng.integers(len(broken)) :]
            else:
                for _ in range(rng.integers(1, 4)):
                    at = rng.integers(len(broken)) if case % 2 else rng.choice(ends)
                    broken[at] = rng.integers(256)
            file.write_bytes(bytes(broken))
            found = outcome(path)
            if isinstance(found, str):
                assert str(path) in found
                refused += 1
            else:
                use(found)
                loaded += 1
        file.write_bytes(original)
    use(ritz.load(path))
    assert refused > 200
    assert loaded > 5, "what neither checksum covers: time stamps and the like"


def test_values_of_json_that_change_kind_give_a_fit_or_one_line(whole, tmp_path):
    """Put a value of every kind at every place of the JSON."""
    path = tmp_path / "fit"
    shutil.copytree(whole, path)
    meta = json.loads((path / "fit.json").read_text())
    kinds = [None, True, -1, 0, 1.5, float("nan"), HUGE, "", "x", [], [1], {}, {"a": 1}]
    for place in list(places(meta)):
        if place[0] in ("verdict", "arrays", "format") or place[:2] == ("info", "versions"):
            continue
        for value in kinds:
            changed = copy.deepcopy(meta)
            set_at(*place, value)(changed)
            (path / "fit.json").write_text(json.dumps(io.signed(changed)))
            found = outcome(path)
            if not isinstance(found, str):
                str(found.summary())
                found.sample(2)


def places(value, before=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in items:
        yield (*before, key)
        if isinstance(entry, dict | list):
            yield from places(entry, (*before, key))
