"""What a Gaussian process that has been trained can tell."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._errors import RitzError, whole_number
from ritz._precision import as_made
from ritz._sklearn import Estimator
from ritz.gp._learn import Trained, parts_at
from ritz.gp._likelihood import AbstractLikelihood, likelihood_of
from ritz.gp._predict import at, drawn, first, learned, log_mean, response
from ritz.gp._rows import like, paired, table

_BLOCK = 1024  # rows that are predicted at once
_DRAWS = 50  # of hyperparameters, where there is a posterior of these


def precision(gp: Any) -> dict[str, str]:
    """Float64 on a processor: evidences are differences of large sums, and steps fewer for it."""
    return {"dtype": "float64"} if jax.default_backend() == "cpu" else {}


@functools.partial(as_made, info=precision)
class Predictions(Estimator):
    """What `GP` tells once it has been fitted."""

    likelihood: Any
    hyperparameters: Any
    n_features_in_: int
    _trained: Trained
    _told: list[tuple[dict[str, Any], Any]] | None

    # -- what is learned ----------------------------------------------------------------------

    @property
    def _parts(self) -> dict[str, Any]:
        return parts_at(self._fitted)

    @property
    def kernel_(self) -> Any:
        """The kernel, of inputs in their own units and standardised outputs; a pair for two."""
        return self._parts["kernel"]

    @property
    def likelihood_(self) -> AbstractLikelihood:
        """The likelihood, of standardised outputs."""
        return self._parts.get("likelihood", likelihood_of(self.likelihood))

    @property
    def noise_(self) -> float:
        """The sd of the noise, or its scale, in the outputs' units.

        Raises:
            RitzError: where the likelihood has none.
        """
        noise = getattr(self.likelihood_, "noise", None)
        if noise is None:
            raise RitzError(f"{type(self.likelihood_).__name__} has no noise of one sd")
        return float(noise * self._trained.scale)

    @property
    def classes_(self) -> np.ndarray:
        """Labels in the order of `predict_proba`.

        Raises:
            RitzError: where outputs are no classes.
        """
        self._fitted  # noqa: B018
        if not self.likelihood_.classifies:
            raise RitzError(f"outputs of {type(self.likelihood_).__name__} are no classes")
        return self._trained.known

    def log_evidence(self) -> float:
        """Of the data in their own units, or its bound or approximation; at the mode."""
        found = self._learned()[0][1].log_evidence
        return float(found) - len(self._trained.data["y"]) * math.log(self._trained.scale)

    def explain(self) -> str:
        """What was done with how many rows, and what was added to variances."""
        seen = self._learned()[0][1].seen
        n, m = len(self._trained.data["y"]), len(self._fitted.target.theta.tree.get("z", ()))
        what = "all at once" if not m else f"{m:,} inducing inputs"
        if m and seen.inner is None:
            what += " for hyperparameters and all rows for predictions"
        return (
            f"{n:,} rows, {what}; inference: {self._trained.way}; hyperparameters: "
            f"{self.hyperparameters}; {float(seen.jitter.max()):.1g} was added to variances"
        )

    # -- predictions --------------------------------------------------------------------------

    def predict(self, x: Any, return_std: bool = False, *, noisy: bool = False) -> Any:
        """Expected outputs; of classes, the most probable one.

        Args:
            x: inputs, shape (k, d).
            return_std: whether sds of the function are asked for, in the outputs' units.
            noisy: whether these are the sds of new outputs.

        Returns:
            shape (k,), and with `return_std` a pair of means and sds.

        Raises:
            RitzError: for inputs of another number of columns, for sds where the likelihood is not
                of the function plus noise, or before `fit`.
        """
        likelihood = self._fitted and self.likelihood_
        if likelihood.classifies and not return_std:
            return self._trained.known[self.predict_proba(x).argmax(axis=1)]
        means, variances, expected = self._each(x, response)
        if not return_std:
            return self._units(expected.mean(axis=0))
        level, noise = means[..., 0], getattr(likelihood, "noise", None)
        if not likelihood.standardised or (noisy and noise is None):
            raise RitzError(
                f"return_std: outputs of {type(likelihood).__name__} are not the function plus "
                "noise of one sd; use function(x) or log_density(x, y)"
            )
        extra = 0.0
        if noisy:
            noises = [p["likelihood"].noise for p, _ in self._learned()]
            df = getattr(likelihood, "df", math.inf)
            inflate = 1.0 if math.isinf(df) else df / (df - 2.0) if df > 2 else math.inf
            extra = float(np.mean(np.square(noises))) * inflate
        total = variances[..., 0].mean(axis=0) + level.var(axis=0) + extra
        return self._trained.shift + self._trained.scale * level.mean(
            axis=0
        ), self._trained.scale * np.sqrt(total)

    def predict_proba(self, x: Any) -> np.ndarray:
        """The probability of each class, shape (k, classes).

        Raises:
            RitzError: where outputs are no classes, and as for `predict`.
        """
        self.classes_  # noqa: B018
        found = self._each(x, response)[2].mean(axis=0)
        return found / found.sum(axis=1, keepdims=True)

    def function(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Means and sds of the function, or of each of several, shape (k,) or (k, c).

        Raises:
            RitzError: as for `predict`.
        """
        means, variances, _ = self._each(x, first)
        mean, sd = means.mean(axis=0), np.sqrt(variances.mean(axis=0) + means.var(axis=0))
        return (mean[:, 0], sd[:, 0]) if mean.shape[1] == 1 else (mean, sd)

    def log_density(self, x: Any, y: Any) -> np.ndarray:
        """Of new outputs, one by one, shape (k,), in nats and the outputs' units.

        Args:
            x: inputs, shape (k, d).
            y: outputs, shape (k,).

        Raises:
            RitzError: as for `predict`, and for outputs that do not fit.
        """
        known = self._fitted and self._trained.known
        values = self.likelihood_.outputs(y, known)[0]
        rows = self._rows(x)
        paired(rows, values)
        scaled = (values - self._trained.shift) / self._trained.scale
        each = self._each(rows, log_mean, scaled)[2]
        return (
            np.logaddexp.reduce(each, axis=0) - math.log(len(each)) - math.log(self._trained.scale)
        )

    def sample(self, x: Any, n: Any = 1, seed: Any = 0) -> np.ndarray:
        """Draws of the function at all the inputs together, shape (n, k), or (n, k, c) of several.

        Args:
            x: inputs, shape (k, d).
            n: how many.
            seed: of the draws.

        Raises:
            RitzError: as for `predict`.
        """
        whole_number("n", n, 1)
        rows = self._rows(x)
        several = self._learned()
        each = -(-n // len(several))
        draws = []
        for i, (parts, told) in enumerate(several[: -(-n // each)]):
            key = jax.random.fold_in(jax.random.key(whole_number("seed", seed, 0)), i)
            draws.append(drawn(parts, told.seen, self._trained.data, rows, key, each))
        found = self._units(np.concatenate([np.asarray(v) for v in draws])[:n])
        return found[..., 0] if found.shape[-1] == 1 else found

    def score(self, x: Any, y: Any) -> float:
        """R², or the share of classes that are right, as scikit-learn has it."""
        if self._fitted and self.likelihood_.classifies:
            return float(np.mean(self.predict(x) == np.asarray(y).reshape(-1)))
        values = self.likelihood_.outputs(y, self._trained.known)[0]
        return float(1.0 - np.mean((self.predict(x) - values) ** 2) / values.var())

    def _units(self, values: np.ndarray) -> np.ndarray:
        return self._trained.shift + self._trained.scale * values

    def _learned(self) -> list[tuple[dict[str, Any], Any]]:
        """Hyperparameters over which predictions are averaged, and what they lead to."""
        if self._told is None:
            several = [self._parts]
            if self.hyperparameters == "posterior":
                draws = self._fitted.sample(_DRAWS)
                of = lambda i: jax.tree.map(lambda v: jnp.asarray(v[i]), draws)
                several = [of(i) for i in range(_DRAWS)]
            self._told = [
                (parts, learned(self._trained.way, parts, self._trained.data)) for parts in several
            ]
        return self._told

    def _rows(self, x: Any) -> Any:
        wanted = self._fitted and self.n_features_in_
        rows = like(table(x, least=1), wanted)
        return jnp.asarray(rows - self._trained.middle, float)

    def _each(self, x: Any, of: Any, y: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means, variances and what a function of these is, a row for each of the parameters."""
        rows = x if isinstance(x, jax.Array) else self._rows(x)
        y = jnp.zeros(len(rows)) if y is None else jnp.asarray(y, float)
        blocks = np.array_split(np.arange(len(rows)), -(-len(rows) // _BLOCK))
        found = [
            [at(of, parts, told.seen, self._trained.data, rows[b], y[b]) for b in blocks]
            for parts, told in self._learned()
        ]
        joined = [[np.concatenate(v) for v in zip(*one, strict=True)] for one in found]
        means, variances, values = (np.stack(v) for v in zip(*joined, strict=True))
        return np.asarray(means, float), np.asarray(variances, float), np.asarray(values, float)
