"""Gaussian process regression as an estimator."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from numpyro.distributions import constraints

from ritz._errors import RitzError, positive, whole_number
from ritz._sklearn import Estimator
from ritz.fit import fit as fit_
from ritz.gp._evidence import collapsed, collapsed_density, exact, exact_density, predicted
from ritz.gp._factor import factor
from ritz.gp._inducing import greedy_variance
from ritz.gp._kernel import AbstractKernel
from ritz.gp._rows import responses, table
from ritz.gp._stationary import matern
from ritz.target import from_log_density

# Up to so many rows the evidence is exact; beyond, so many inducing inputs serve.
_EXACT, _INDUCING = 1000, 200
# Lengths, in those of the kernel, and shares of the variance that are noise, of the starts.
_STARTS = ((1.0, 0.1), (0.25, 0.05), (3.0, 0.5))
_SEVERAL = 500  # up to so many rows all of these are gone from, beyond only the first
_BLOCK = 1024  # rows that are predicted at once
_DRAWS = 50  # of hyperparameters, where there is a posterior of these


class GP(Estimator):
    r"""Gaussian process regression.

    .. math:: f \sim \mathcal{GP}(m, k_\theta), \qquad y_i = f(x_i) + \sigma\epsilon_i.

    Up to 1,000 rows the evidence is exact, beyond that a lower bound of it by 200 inducing inputs,
    which are chosen from the rows (`greedy_variance`). Hyperparameters are at the mode of evidence
    times prior, the best of three starts up to 500 rows and of one beyond, or have a posterior over
    which predictions are averaged. Every kernel's numbers and the noise are log-normal a priori
    about where they start; the mean is flat. Rows are seen relative to the mean row, and y is
    standardised, so that variances are shares of its variance and the noise starts at 0.3 of its
    sd.

    Rasmussen and Williams, "Gaussian processes for machine learning", 2006, sections 2.2 and 5.4.

    Args:
        kernel: from `ritz.gp`; its numbers are where they start. By default `matern(2.5)` with a
            length for each column, from the column's sd.
        inducing: how many inducing inputs; by default none up to 1,000 rows.
        hyperparameters: "mode", or "posterior" for full Bayes by `ritz.fit`'s own choice.
        prior_sd: of the logs of hyperparameters, about their starts.
        seed: of starts and draws.
        progress: as for `ritz.fit`.

    >>> x = np.linspace(0.0, 6.0, 40)[:, None]
    >>> gp = GP(progress=False).fit(x, np.sin(x[:, 0]))
    >>> mean, sd = gp.predict(np.array([[3.0]]), return_std=True)
    >>> bool(abs(mean[0] - np.sin(3.0)) < 0.02)
    True
    """

    def __init__(
        self,
        kernel: Any = None,
        *,
        inducing: Any = None,
        hyperparameters: Any = "mode",
        prior_sd: Any = 1.5,
        seed: Any = 0,
        progress: Any = None,
    ) -> None:
        """Nothing is checked or built before `fit`, as in scikit-learn."""
        self.kernel, self.inducing, self.hyperparameters = kernel, inducing, hyperparameters
        self.prior_sd, self.seed, self.progress = prior_sd, seed, progress

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import RegressorTags, Tags, TargetTags

        return Tags("regressor", TargetTags(required=True), regressor_tags=RegressorTags())

    def __repr__(self) -> str:
        return f"GP({'' if self.kernel is None else type(self.kernel).__name__})"

    def fit(self, x: Any, y: Any) -> "GP":
        """Learn hyperparameters of rows.

        Args:
            x: inputs, shape (n, d), or (n,) for one column; an array or a data frame.
            y: outputs, shape (n,).

        Returns:
            itself, with `fit_`, the fit of hyperparameters.

        Raises:
            RitzError: for data or settings that do not fit, before anything is computed.
        """
        if self.kernel is not None and not isinstance(self.kernel, AbstractKernel):
            raise RitzError(
                f"kernel arrived as {type(self.kernel).__name__}, expected one of ritz.gp such as "
                "matern(2.5)"
            )
        if self.hyperparameters not in ("mode", "posterior"):
            raise RitzError(
                f"hyperparameters={self.hyperparameters!r} arrived, expected 'mode' or 'posterior'"
            )
        rows, values = table(x), responses(y)
        if len(rows) != len(values):
            raise RitzError(
                f"x holds {len(rows)} rows and y {len(values)} values; pass one value for each row"
            )
        many = self._many(len(rows))
        log_sd = positive("prior_sd", self.prior_sd)
        self._middle, self._shift, self._scale = rows.mean(axis=0), values.mean(), values.std()
        data: dict[str, Any] = {
            "x": jnp.asarray(rows - self._middle, float),
            "y": jnp.asarray((values - self._shift) / self._scale, float),
            "log_sd": jnp.asarray(log_sd, float),
        }
        kernel = self._start(np.asarray(rows, float)) if self.kernel is None else self.kernel
        first = {"kernel": kernel, "noise": jnp.asarray(math.sqrt(_STARTS[0][1]), float)}
        data["first"] = [jnp.log(v) for v in jax.tree.leaves((kernel, first["noise"]))]
        self.n_features_in_ = rows.shape[1]
        if many is not None:
            data["z"] = self._points(kernel, data, many)
        self.fit_ = self._learned(first, data)
        if many is not None:
            # Those of the first kernel may be too many along columns that do not matter.
            data["z"] = self._points(self.kernel_, data, many)
            self.fit_ = self._learned({n: self._parts[n] for n in first}, data)
        self._data = data
        return self

    def _many(self, n: int) -> int | None:
        if self.inducing is None:
            return None if n <= _EXACT else _INDUCING
        many = whole_number("inducing", self.inducing, 1)
        if many > n:
            raise RitzError(f"inducing={many} arrived, but there are {n} rows; use at most {n}")
        return many

    def _points(self, kernel: Any, data: dict[str, Any], many: int) -> Any:
        found = greedy_variance(kernel, np.asarray(data["x"]), many, self.seed)
        return jnp.asarray(found, float)

    def _start(self, rows: np.ndarray) -> AbstractKernel:
        wide = np.where(rows.std(axis=0) > 0, rows.std(axis=0), 1.0)
        return matern(2.5, wide * math.sqrt(rows.shape[1]))

    def _learned(self, first: dict[str, Any], data: dict[str, Any]) -> Any:
        """The best fit of hyperparameters, from where they start."""
        density = collapsed_density if "z" in data else exact_density
        positive_ones = dict.fromkeys(first, constraints.positive)
        example = first | {"mean": jnp.zeros(())}
        target = from_log_density(density, example, positive_ones, theta=paramax.NonTrainable(data))
        shared = {"seed": self.seed, "progress": self.progress}
        if self.hyperparameters == "posterior":
            return fit_(target, **shared)
        found = []
        for length, noise in _STARTS if len(data["y"]) <= _SEVERAL else _STARTS[:1]:
            values = dict(target.unpack(example)) | {"noise": jnp.asarray(math.sqrt(noise), float)}
            for name in values:
                if name.endswith("lengthscale"):
                    values[name] = length * jnp.asarray(values[name])
            found.append(fit_(target, family="full_rank", solver="lbfgs", init=values, **shared))
        return min(found, key=lambda fit: float(fit.history.loss[-1]))

    # -- what is learned ----------------------------------------------------------------------

    @property
    def _parts(self) -> dict[str, Any]:
        """Hyperparameters at the mode, or at the posterior's centre."""
        fit = self._fitted
        return fit.target.pack(fit.target.constrain(paramax.unwrap(fit.q).loc))

    @property
    def kernel_(self) -> AbstractKernel:
        """The kernel, of inputs in their own units and standardised outputs."""
        return self._parts["kernel"]

    @property
    def noise_(self) -> float:
        """The sd of the noise, in the outputs' units."""
        return float(self._parts["noise"] * self._scale)

    def log_evidence(self) -> float:
        """Of the data in their own units, or its lower bound; at the mode of hyperparameters."""
        found = _conditioned(self._parts, self._data).log_evidence
        return float(found) - len(self._data["y"]) * math.log(self._scale)

    def explain(self) -> str:
        """What was done with how many rows, and what was added to variances."""
        data, how = self._data, self.hyperparameters
        seen = _conditioned(self._parts, data)
        n, m = len(data["y"]), len(seen.points)
        what = "exact evidence" if seen.inner is None else f"{m:,} inducing inputs"
        return (
            f"{n:,} rows, {what}; hyperparameters: {how}; {float(seen.jitter):.1g} of the outputs' "
            "variance was added to variances"
        )

    # -- predictions --------------------------------------------------------------------------

    def predict(self, x: Any, return_std: bool = False, *, noisy: bool = False) -> Any:
        """Means of the function, in the outputs' units.

        Args:
            x: inputs, shape (k, d).
            return_std: whether sds are asked for.
            noisy: whether these are the sds of new outputs.

        Returns:
            means, shape (k,), and with `return_std` a pair of means and sds.

        Raises:
            RitzError: for inputs of another number of columns, or before `fit`.
        """
        means, variances = self._predicted(x, noisy)
        mean = means.mean(axis=0)
        mean = self._shift + self._scale * mean
        if not return_std:
            return mean
        return mean, self._scale * np.sqrt(variances.mean(axis=0) + means.var(axis=0))

    def log_density(self, x: Any, y: Any) -> np.ndarray:
        """Of new outputs, one by one, shape (k,), in nats and the outputs' units.

        Args:
            x: inputs, shape (k, d).
            y: outputs, shape (k,).

        Raises:
            RitzError: as for `predict`, and for outputs that do not fit.
        """
        means, variances = self._predicted(x, True)
        values = responses(y, least=1)
        if len(values) != means.shape[1]:
            raise RitzError(
                f"x holds {means.shape[1]} rows and y {len(values)} values; pass one each"
            )
        off = (values - self._shift) / self._scale - means
        each = -0.5 * (off**2 / variances + np.log(2.0 * math.pi * variances))
        return np.logaddexp.reduce(each, axis=0) - math.log(len(each)) - math.log(self._scale)

    def sample(self, x: Any, n: Any = 1, seed: Any = 0) -> np.ndarray:
        """Draws of the function at all the inputs together, shape (n, k).

        Args:
            x: inputs, shape (k, d).
            n: how many.
            seed: of the draws.

        Raises:
            RitzError: as for `predict`.
        """
        whole_number("n", n, 1)
        rows = self._rows(x)
        several = self._several()
        each = -(-n // len(several))
        draws = []
        for i, parts in enumerate(several[: -(-n // each)]):
            key = jax.random.fold_in(jax.random.key(whole_number("seed", seed, 0)), i)
            draws.append(np.asarray(_drawn(parts, self._data, rows, key, each)))
        return self._shift + self._scale * np.concatenate(draws)[:n]

    def score(self, x: Any, y: Any) -> float:
        """R², as scikit-learn's regressors have it."""
        values = responses(y)
        return float(1.0 - np.mean((self.predict(x) - values) ** 2) / values.var())

    def _several(self) -> list[dict[str, Any]]:
        """Hyperparameters over which predictions are averaged."""
        if self.hyperparameters == "mode":
            return [self._parts]
        draws = self._fitted.sample(_DRAWS)
        return [jax.tree.map(lambda v, i=i: jnp.asarray(v[i]), draws) for i in range(_DRAWS)]

    def _rows(self, x: Any) -> Any:
        wanted = len(self._fitted.target.theta.tree["x"][0])
        rows = table(x, least=1)
        if rows.shape[1] != wanted:
            raise RitzError(
                f"inputs with {rows.shape[1]} columns arrived, expected {wanted} as in fit"
            )
        return jnp.asarray(rows - self._middle, float)

    def _predicted(self, x: Any, noisy: bool) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances, a row for each of the hyperparameters; standardised."""
        rows = self._rows(x)
        blocks = np.array_split(np.arange(len(rows)), -(-len(rows) // _BLOCK))
        means, variances = [], []
        for parts in self._several():
            seen = _conditioned(parts, self._data)
            found = [_at(parts, seen, rows[block]) for block in blocks]
            extra = float(parts["noise"]) ** 2 if noisy else 0.0
            means.append(np.concatenate([np.asarray(m, float) for m, _ in found]))
            variance = np.concatenate([np.asarray(v, float) for _, v in found])
            # Where data tell nearly all, rounding may leave less than nothing.
            variances.append(np.maximum(variance, np.finfo(np.float32).tiny) + extra)
        return np.stack(means), np.stack(variances)


@eqx.filter_jit
def _conditioned(parts: dict[str, Any], data: dict[str, Any]) -> Any:
    return collapsed(parts, data) if "z" in data else exact(parts, data)


@eqx.filter_jit
def _at(parts: dict[str, Any], seen: Any, rows: Any) -> Any:
    return predicted(parts, seen, rows)


@eqx.filter_jit
def _drawn(parts: dict[str, Any], data: dict[str, Any], rows: Any, key: Any, n: int) -> Any:
    seen = collapsed(parts, data) if "z" in data else exact(parts, data)
    mean, cov = predicted(parts, seen, rows, joint=True)
    lower = factor(0.5 * (cov + cov.T))[0]
    return mean + jax.random.normal(key, (n, len(rows)), mean.dtype) @ lower.T
