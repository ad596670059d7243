"""Targets of Stan programs, with a stand-in for BridgeStan: its sources are not in its package.

The stand-in has the signatures of the real one, which a test compares, and the order of entries and
the errors that its documentation tells.
"""

import builtins
import inspect
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ritz
from ritz import RitzError
from ritz.target import from_stan

CODE = "parameters { real mu; ... }  // what the stand-in is"
MEANS = np.array([[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]])
# An orthonormal basis of the vectors of length 3 that sum to zero.
BASIS = np.linalg.svd(np.eye(3) - 1 / 3)[0][:, :2]


class StanModel:
    """mu ~ normal(shift, 2); s ~ gamma(3, 2), 2 of them; B ~ normal(MEANS, 1); z sums to zero.

    Transformed parameter: matrix[2, 2] T = [[mu, s[1]], [s[2], 0]]. It throws at mu > 50.
    """

    def __init__(
        self,
        model_lib,
        data=None,
        *,
        seed=1234,
        stanc_args=(),
        make_args=(),
        capture_stan_prints=True,
        warn=True,
        model_data=None,
    ):
        if data is not None and "shift" not in data:
            raise RuntimeError("variable does not exist; name=shift")
        self.data, self.shift = str(data), float((data or {"shift": 0.0})["shift"])
        self.calls = 0

    def param_unc_num(self):
        return 11

    def param_unc_names(self):
        matrix = [f"B.{i}.{j}" for j in (1, 2, 3) for i in (1, 2)]
        return ["mu", "s.1", "s.2", *matrix, "z.1", "z.2"]

    def param_names(self, *, include_tp=False, include_gq=False):
        made = ["T.1.1", "T.2.1", "T.1.2", "T.2.2"] if include_tp else []
        return [*self.param_unc_names()[:9], "z.1", "z.2", "z.3", *made]

    def param_constrain(self, theta_unc, *, include_tp=False, include_gq=False, out=None, rng=None):
        x = checked(theta_unc, 11)
        s = np.exp(x[1:3])
        own = [x[:1], s, x[3:9], BASIS @ x[9:]]
        made = [[x[0], s[1], s[0], 0.0]] if include_tp else []
        return np.concatenate([*own, *made])

    def param_unconstrain(self, theta, *, out=None):
        v = checked(theta, 12)
        if (v[1:3] <= 0).any():
            raise RuntimeError("s is not positive")
        return np.concatenate([v[:1], np.log(v[1:3]), v[3:9], BASIS.T @ v[9:]])

    def log_density(self, theta_unc, *, propto=True, jacobian=True):
        return self.log_density_gradient(theta_unc, propto=propto, jacobian=jacobian)[0]

    def log_density_gradient(self, theta_unc, *, propto=True, jacobian=True, out=None):
        assert not propto
        x = checked(theta_unc, 11)
        self.calls += 1
        if x[0] > 50:
            raise RuntimeError("mu is larger than 50\n")
        s, b = np.exp(x[1:3]), x[3:9] - MEANS.T.ravel()
        value = -0.125 * (x[0] - self.shift) ** 2 - np.log(2.0) - 4.5 * np.log(2.0 * np.pi)
        value += (np.log(4.0) + 2.0 * x[1:3] - 2.0 * s).sum() - 0.5 * (b @ b + x[9:] @ x[9:])
        value += x[1:3].sum() if jacobian else 0.0
        slope = 2.0 - 2.0 * s + (1.0 if jacobian else 0.0)
        return float(value), np.concatenate([[(self.shift - x[0]) / 4.0], slope, -b, -x[9:]])


def checked(x, size):
    assert type(x) is np.ndarray
    assert (x.dtype, x.shape) == (np.float64, (size,))
    return x


@pytest.fixture
def stan(monkeypatch, tmp_path):
    """BridgeStan's stand-in in the place of it."""
    module = types.SimpleNamespace(
        StanModel=StanModel, compile_model=lambda path: path.with_suffix(".so")
    )
    monkeypatch.setitem(sys.modules, "bridgestan", module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MAKE", "true")  # which there is
    return module


def test_the_stand_in_has_the_signatures_of_bridgestan():
    real = pytest.importorskip("bridgestan")
    assert next(iter(inspect.signature(real.compile_model).parameters)) == "stan_file"
    for name, method in vars(StanModel).items():
        if inspect.isfunction(method):
            shape = lambda f: [(p.name, p.kind) for p in inspect.signature(f).parameters.values()]
            assert shape(method) == shape(getattr(real.StanModel, name)), name


@pytest.mark.parametrize("x64", [True, False])
def test_density_gradient_and_maps_are_stans(stan, x64):
    with jax.enable_x64(x64):
        target = from_stan(CODE, {"shift": np.float32(1.5)})
        model, rng = StanModel("", {"shift": 1.5}), np.random.default_rng(0)
        close = {"rtol": 1e-12} if x64 else {"rtol": 2e-5, "atol": 2e-5}
        for row in rng.normal(size=(3, 11)):
            x = jnp.asarray(row)
            value, grad = model.log_density_gradient(row, propto=False)
            assert target.log_density(x).dtype == x.dtype
            np.testing.assert_allclose(target.log_density(x), value, **close)
            np.testing.assert_allclose(jax.grad(target.log_density)(x), grad, **close)
            np.testing.assert_allclose(sum(target.terms(x).values()), value, **close)
            np.testing.assert_allclose(target.log_det(x), row[1:3].sum(), rtol=1e-5, atol=1e-4)
            values = target.constrain(x)
            back = target.unconstrain({s.name: values[s.name] for s in target.sites})
            np.testing.assert_allclose(back, row, rtol=1e-5, atol=1e-6)
        many = jax.jit(jax.vmap(target.log_density))(jnp.asarray(rng.normal(size=(4, 11))))
        assert many.shape == (4,)


def test_sites_have_the_shapes_of_the_program(stan):
    target = from_stan(CODE)
    assert {s.name: (s.shape, s.start, s.stop) for s in target.sites} == {
        "mu": ((), 0, 1),
        "s": ((2,), 1, 3),
        "B": ((2, 3), 3, 9),
        "z": ((3,), 9, 11),
    }
    assert [s.support for s in target.sites] == [
        "real",
        "constrained by the program",
        "real",
        "constrained by the program",
    ]
    x = np.arange(11.0)
    values = target.constrain(jnp.asarray(x))
    np.testing.assert_array_equal(values["B"], x[3:9].reshape(3, 2).T)  # Stan goes down columns
    np.testing.assert_allclose(values["T"], [[0.0, np.e], [np.exp(2.0), 0.0]], rtol=1e-6)
    assert abs(float(values["z"].sum())) < 1e-5


@pytest.mark.parametrize("settings", [{}, {"family": "full_rank", "steps": 1500}], ids=str)
def test_fit_is_exact(stan, settings, tmp_path):
    fit = ritz.fit(from_stan(CODE, {"shift": 1.5}), progress=False, **settings)
    mean, sd = fit.mean(), fit.sd()
    assert fit.status == "ok", fit.reasons
    loose = 0.1 if settings else 0.06
    assert abs(mean["mu"] - 1.5) < 2.0 * loose
    np.testing.assert_allclose(mean["s"], 1.5, atol=0.75**0.5 * loose)
    np.testing.assert_allclose(mean["B"], MEANS, atol=loose)
    np.testing.assert_allclose(sd["B"], 1.0, atol=loose)
    np.testing.assert_allclose(sd["s"], 0.75**0.5, rtol=0.25)
    assert abs(fit.log_evidence.value) < 0.05  # the constants are there
    np.testing.assert_allclose(fit.draws["T"][:, 0, 0], fit.draws["mu"])
    again = ritz.fit(fit.target, progress=False, **settings)
    assert not again.info["compiled"]
    assert again.mean()["mu"] == mean["mu"]
    fit.save(tmp_path / "fit")
    np.testing.assert_array_equal(ritz.load(tmp_path / "fit").draws["T"], fit.draws["T"])
    whole = ritz.load(tmp_path / "fit", from_stan(CODE, {"shift": 1.5}))
    assert whole.log_weights(10).shape == (10,)


def test_a_run_goes_on_with_the_same_data_only(stan, tmp_path):
    settings = {"family": "mean_field", "steps": 40, "progress": False}
    fit = ritz.fit(from_stan(CODE, {"shift": 1.5}), checkpoint=tmp_path / "run", **settings)
    again = ritz.resume(tmp_path / "run", from_stan(CODE, {"shift": 1.5}))
    assert again.mean()["mu"] == fit.mean()["mu"]
    with pytest.raises(RitzError, match="other"):
        ritz.resume(tmp_path / "run", from_stan(CODE, {"shift": 2.5}))


def test_large_points_in_loops_do_not_wait_for_ever(stan, monkeypatch):
    d = 3000
    for name, value in {
        "param_unc_num": lambda self: d,
        "param_unc_names": lambda self: [f"v.{i + 1}" for i in range(d)],
        "param_names": lambda self, include_tp=False: [f"v.{i + 1}" for i in range(d)],
        "param_constrain": lambda self, x, include_tp=False: x.copy(),
        "log_density_gradient": lambda self, x, propto, jacobian: (-0.5 * float(x @ x), -x),
        "log_density": lambda self, x, propto, jacobian: -0.5 * float(x @ x),
    }.items():
        monkeypatch.setattr(StanModel, name, value)
    target = from_stan(CODE)

    @jax.jit
    def looped(x):
        score = lambda x: jax.value_and_grad(target.log_density)(2.0 * x)
        mapped = jax.lax.map(score, x, batch_size=8)[1]
        step = lambda at, row: (at + 0.1 * jax.grad(target.log_density)(at) + row, at.sum())
        return mapped.sum() + jax.lax.scan(step, x[0], x)[0].sum() + jax.vmap(score)(x)[1].sum()

    x = np.random.default_rng(0).normal(size=(64, d))
    at = x[0]
    for row in x:
        at = at - 0.1 * at + row
    assert abs(float(looped(x)) - (at.sum() - 4.0 * x.sum())) < 1e-5 * abs(x).sum()


def test_second_derivatives_are_refused(stan):
    with pytest.raises(RitzError, match=r"needs hvp_at, second derivatives .* this one lacks"):
        ritz.fit(from_stan(CODE), solver="laplace")


def test_bad_input(stan, monkeypatch, tmp_path):
    with pytest.raises(RitzError, match=r"refuses program_.* variable does not exist; name=shift"):
        from_stan(CODE, {"J": 3})
    for program, said in (
        (3, "a int arrived, expected the path"),
        ("a.txt", r"'a\.txt' arrived, expected the path of a \.stan file"),
        ("none.stan", r"there is no file 'none\.stan'"),
    ):
        with pytest.raises(RitzError, match=said):
            from_stan(program)
    with pytest.raises(RitzError, match="data arrived as list, expected a mapping"):
        from_stan(CODE, [1.0])
    target = from_stan(CODE)
    with pytest.raises(RitzError, match="takes no batches"):
        target.log_density(jnp.zeros(11), batch=(1.0,))
    with monkeypatch.context() as patch:
        patch.setattr(StanModel, "log_density_gradient", throws)
        with pytest.raises(RitzError, match=r"is -inf; .*; Stan says: mu is larger than 50"):
            from_stan(CODE).start(jax.random.key(0))
        patch.setattr(StanModel, "param_unc_num", lambda self: 0)
        with pytest.raises(RitzError, match="has no parameters"):
            from_stan(CODE)


def throws(self, *args, **kwargs):
    raise RuntimeError("mu is larger than 50\n")


def test_where_stan_throws_the_density_is_zero(stan):
    target = from_stan(CODE)
    value, grad = jax.value_and_grad(target.log_density)(jnp.full(11, 60.0))
    assert value == -jnp.inf
    np.testing.assert_array_equal(grad, 0.0)
    assert target.host.said == "mu is larger than 50"


def fails(error):
    def compile_model(path):
        raise error

    return compile_model


def test_missing_tools_are_said_in_a_line(stan, monkeypatch):
    output = (
        "Command make failed with code 2.\nstdout:\n...\nstderr:\nwarning\nSyntax error in 'x'\n"
    )
    for error, said in (
        (ValueError("Failed to download BridgeStan 2.9.0 from github.com."), "set BRIDGESTAN to a"),
        (RuntimeError(output), "compiled: Syntax error in 'x'; mend the program, or the tools"),
    ):
        stan.compile_model = fails(error)
        with pytest.raises(RitzError, match=said) as raised:
            from_stan(CODE)
        assert "\n" not in str(raised.value)
    monkeypatch.setenv("MAKE", "no-such-make")
    with pytest.raises(RitzError, match=r"there is no 'no-such-make' .* BridgeStan needs make"):
        from_stan(CODE)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "bridgestan":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RitzError, match=r"pip install 'ritz\[stan\]'"):
        from_stan(CODE)


def test_the_real_bridgestan_without_its_sources(monkeypatch, tmp_path):
    pytest.importorskip("bridgestan")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("BRIDGESTAN", str(tmp_path / "none"))
    monkeypatch.setenv("MAKE", "true")
    with pytest.raises(RitzError, match=r"sources are not here: .*does not exist.*set BRIDGESTAN"):
        from_stan("parameters { real x; } model { x ~ std_normal(); }")
