"""The result of a fit."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ritz import _adapt, _measures, _nuts, _posterior, _probabilities
from ritz import _only_if as only_if
from ritz._compile import compile, spent
from ritz._diagnosis import Diagnosis, diagnose
from ritz._draws import at_keys, at_rows
from ritz._errors import RitzError, whole_number
from ritz._measures import Estimate
from ritz._posterior import DRAWS
from ritz._precision import as_made
from ritz._refine import refine
from ritz._verdict import reasons
from ritz.diagnose import PSIS
from ritz.family import AbstractFamily
from ritz.report import Summary, labels, table_rows, to_arviz
from ritz.solver import History
from ritz.target import AbstractTarget


@as_made
@dataclasses.dataclass(eq=False, repr=False)
class Fit:
    """The posterior that `ritz.fit` found.

    Everything here answers from the same posterior: the family `q`, or q corrected by importance
    weights where `correction` says so. What the family or the target cannot do is absent:
    `hasattr(fit, "predict")` is False for a plain log density. Methods run in the precision that
    the fit was made in, `info["dtype"]`, whichever is on.

    Attributes:
        q: the fitted family, over the target's unconstrained vector.
        target: what it approximates.
        history: the loss by step.
        stop_reason: why the run ended.
        message: the same in a line; empty where all went well.
        key: the key of the fit; draws are derived from it unless another is given.
        info: how it was made: family, solver, steps, start, versions, seconds.
        binding: how data were bound to the model's arguments (`ritz.data.Binding`), if they were.
        correction: "importance" where draws are those of q resampled by importance weights,
            "nuts" where they are those of chains started from q; None where they are those of q.
            See `refine`.
        again: from a target (and `seed`, `progress` and the like) to its fit with the same parts
            and numbers; None where `ritz.fit` did not make this one here.
    """

    q: AbstractFamily
    target: AbstractTarget
    history: History
    stop_reason: str
    message: str
    key: jax.Array
    info: dict[str, Any]
    binding: Any = None
    correction: str | None = None
    again: Callable[..., "Fit"] | None = None

    # -- the posterior ----------------------------------------------------------------------

    def sample(self, n: Any = 1000, key: jax.Array | None = None) -> Any:
        """Draws in the model's own parameters, deterministic sites included.

        Args:
            n: how many.
            key: draw i is a function of the key and i alone; the fit's own by default.

        Returns:
            the target's structure (for a model a dict of site names) of arrays with a leading
            axis of length n.
        """
        whole_number("n", n, 1)
        if self.target.has_values:
            return self.target.pack(self.take(n, self._key(key))["values"])
        if n > DRAWS:
            raise RitzError(
                f"sample: n={n} arrived, but a fit loaded without its model holds {DRAWS} draws; "
                "use ritz.load(path, model, data)"
            )
        order = np.arange(DRAWS) if key is None else np.asarray(jax.random.permutation(key, DRAWS))
        return {name: values[order[:n]] for name, values in self.draws.items()}

    @functools.cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """The 4,000 draws, by site name, behind `mean`, `cov`, `summary` and a saved fit."""
        return self._drawn["values"]

    def stored(self) -> dict[str, Any]:
        """The stored draws as they are saved: `values`, `x` and, where there are, `log_weights`."""
        return self._drawn

    def restore(self, stored: dict[str, Any]) -> None:
        """Take stored draws from a file instead of drawing them."""
        self.__dict__["_drawn"] = stored

    def mean(self) -> Any:
        """Posterior means, in the structure of `sample`."""
        means = {name: v.mean(axis=0, dtype=np.float64) for name, v in self.draws.items()}
        return self.target.pack(means)

    def sd(self) -> Any:
        """Posterior standard deviations, in the structure of `sample`."""
        spread = {n: v.std(axis=0, ddof=1, dtype=np.float64) for n, v in self.draws.items()}
        return self.target.pack(spread)

    def cov(self) -> np.ndarray:
        """Posterior covariance of all latent scalars, ordered as `labels`."""
        flat = [self.draws[s.name].reshape(DRAWS, -1) for s in self.target.sites]
        return np.atleast_2d(np.cov(np.concatenate(flat, axis=1).astype(np.float64).T))

    @property
    def labels(self) -> list[str]:
        """A name for each latent scalar, such as `beta[2]`."""
        return [label for s in self.target.sites for label in labels(s.name, s.shape)]

    @only_if.density
    def log_prob(self, values: Any) -> np.ndarray:
        r"""Log density of the fitted posterior at values in the model's own parameters.

        .. math:: \log q(\theta) = \log q_x(T^{-1}(\theta)) - \log|\det \partial T/\partial x|.

        Args:
            values: as `sample` returns them; leading axes are batch axes. Deterministic sites
                may be there and are not read.

        Returns:
            an array with the leading axes.
        """
        return _posterior.log_prob(self.q, self.target, values)

    # -- how good it is ---------------------------------------------------------------------

    @only_if.weights
    def log_weights(self, n: int = DRAWS, key: jax.Array | None = None) -> np.ndarray:
        r""":math:`\log\tilde p(x_k) - \log q(x_k)` of n draws :math:`x_k \sim q`, shape (n,)."""
        return _posterior.drawn(self.q, self.target, n, self._key(key))["log_weights"]

    @only_if.weights
    def refine(self, correction: str = "importance") -> "Fit":
        r"""This fit improved from where it stands: by importance weights, a flow or NUTS.

        "importance": draws from q are resampled by the Pareto-smoothed weights
        :math:`\tilde p/q`, from a pool up to four times as large. Where k-hat is below its
        threshold, `mean`, `sd`, `summary`, `sample`, `predict` and the rest are then those of the
        target up to Monte Carlo error, even where q is not; where it is above, the verdict says
        so.

        "flow": a spline flow takes the place of q, and its draws are resampled as above. It starts
        as the Gaussian of q's draws by weight. Adam on the negative ELBO bends it, in stages of
        4,000, 8,000, 16,000 and 32,000 steps until one leaves means and sds as they were (the
        verdict says where none did), and 1,000 steps of reweighted wake-sleep mend its tails.
        Where weights leave a smaller share of the flow's draws than of q's, q is kept, and
        `explain` says so.

        "nuts": four chains of the No-U-Turn sampler, by BlackJAX (`pip install 'ritz[nuts]'`), in
        coordinates whitened by draws from q and started at four of them resampled by weight; 500
        steps adapt and 1,000 a chain are kept, which are then all draws there are. Where something
        speaks against them, four others go on, with shorter steps, of which every third is kept,
        and with hierarchies non-centred. The verdict is
        that of the chains: R-hat below 1.01, 400 effective draws, and one transition in a
        thousand that diverges at most; k-hat says no more than how well they were started.
        `info["nuts"]` counts gradients.

        `elbo`, `khat` and `log_weights` stay those of q, which only "flow" replaces.

        Args:
            correction: "importance", "flow" or "nuts".

        Returns:
            another fit, whose `correction` is "importance" or "nuts" and whose `distinct` tells
            how many of its stored draws differ.

        Raises:
            RitzError: for another word; for "flow" and "nuts", with discrete coordinates, or where
                q leaves no finite density to start from; for "nuts", without BlackJAX.

        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", 2024;
        Durkan, Bekasov, Murray and Papamakarios, "Neural spline flows", 2019; Hoffman and Gelman,
        "The No-U-Turn sampler", 2014; Vehtari, Gelman, Simpson, Carpenter and Bürkner,
        "Rank-normalization, folding, and localization: an improved R-hat", 2021.

        >>> import jax.numpy as jnp, ritz
        >>> skew = lambda x: 3.0 * x - jnp.exp(x)  # the logarithm of a gamma variable
        >>> fit = ritz.fit(ritz.target.from_log_density(skew, jnp.zeros(())), solver="laplace")
        >>> exact = 0.92278  # the mode is 1.09861
        >>> bool(abs(fit.refine().mean() - exact) < 0.05 < abs(fit.mean() - exact))
        True
        """
        return refine(self, correction, self._key(None))

    @property
    def distinct(self) -> int:
        """How many of the stored draws differ from one another."""
        return len(np.unique(self._drawn["x"], axis=0))

    @functools.cached_property
    def psis(self) -> PSIS | None:
        """Pareto-smoothed importance sampling on the stored draws; None without log-weights."""
        weights = self._drawn.get("log_weights")
        if weights is None:
            return None
        found = _posterior.smooth(weights)
        if self.info.get("refitted") and found.ess < 0.5 * len(weights):
            found = found._replace(threshold=min(found.threshold, _adapt.KHAT))
        return found

    @property
    def elbo(self) -> Estimate | None:
        """The mean log-weight of the stored draws and its standard error, as always positive
        in sense: larger is better. None without log-weights."""
        weights = self._drawn.get("log_weights")
        return None if weights is None else _measures.elbo(weights)

    @property
    def log_evidence(self) -> Estimate | None:
        r"""The importance-sampling estimate :math:`\log\frac1S\sum_s \tilde p(x_s)/q(x_s)`.

        Its standard error is the delta method's. None without log-weights.
        """
        weights = self._drawn.get("log_weights")
        return None if weights is None else _measures.log_evidence(weights)

    @property
    def khat(self) -> float | None:
        """The Pareto shape of the log-weights' tail; see `ritz.diagnose.psis`."""
        return None if self.psis is None else self.psis.khat

    @property
    def log_weight_sd(self) -> float | None:
        r"""The standard deviation of the stored draws' log-weights.

        Half its square is about :math:`\mathrm{KL}(q\,\|\,p)` where that is small.
        """
        weights = self._drawn.get("log_weights")
        return None if weights is None else _measures.sd(weights)

    @functools.cached_property
    def reasons(self) -> tuple[str, ...]:
        """What speaks against trusting the fit, a line each; empty where nothing does."""
        return reasons(self)

    @property
    def status(self) -> str:
        """The verdict: "ok", "doubtful" (see `reasons`) or "failed"."""
        if self.stop_reason == "not finite":
            return "failed"
        return "doubtful" if self.reasons else "ok"

    def summary(self) -> Summary:
        """Means, sds and quantiles in the model's own parameters, and how far to trust them."""
        return Summary(table_rows(self.draws), _measures.facts(self), self.status, self.reasons)

    def diagnose(self, *, calibrate: Any = None) -> Diagnosis:
        r"""All that can be found out about how good the fit is, and what to do about it.

        The starts, k-hat, the effective sample size, the ELBO and its gap to the
        importance-weighted bound :math:`\log\frac1S\sum_s\tilde p(x_s)/q(x_s)`, what weighting
        does to q's moments, Stein's identities and the kernel Stein discrepancy at 1,000 draws
        (`ritz.diagnose.stein`, `ritz.diagnose.ksd`), and where the data's mean, sd, smallest and
        largest lie among 400 drawn from the posterior predictive. What the family or the target
        cannot do is left out.

        Costs 4,000 densities, 1,000 gradients and 400 draws of data.

        With `calibrate`, also simulation-based calibration: as many data sets are drawn from the
        model, each is fitted as this one was, and the ranks of the true values among posterior
        draws are tested for uniformity (Talts, Betancourt, Simpson, Vehtari and Gelman,
        "Validating Bayesian inference algorithms with simulation-based calibration", 2018). It
        says whether posteriors are right over the whole prior, not for these data alone. Refits
        compile nothing, but each is traced again: half a second to three for eight schools.

        Args:
            calibrate: how many data sets, at least 10; 50 find sds that are half of what they
                should be.

        Returns:
            a `Diagnosis`: print it, or read its `measures`, `reasons` and `remedies`.

        Raises:
            RitzError: where `calibrate` is asked for and data cannot be drawn from the model, as
                where a prior is improper.

        >>> import jax.numpy as jnp, ritz
        >>> target = ritz.target.from_log_density(lambda x: -(x**2).sum(), jnp.zeros(2))
        >>> found = ritz.fit(target, progress=False).diagnose()
        >>> found.status, found.remedies, found.measures["k-hat"][0] < 0.5
        ('ok', (), True)
        """
        return diagnose(self, calibrate)

    def explain(self) -> str:
        """What `ritz.fit` decided where nothing was asked for, and why, a line each."""
        info = self.info
        asked = f"{info['family']}, {info['objective']} and {info['solver']}, as asked for"
        lines = list(info.get("decisions", [asked, f"started from {info['start']}"]))
        return "\n".join([*lines, *info.get("refined", ()), *info.get("mesh", ())])

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    # -- the model's data -------------------------------------------------------------------

    @only_if.model
    def predict(
        self,
        data: Any = None,
        n: Any = 1000,
        *,
        reduce: Callable[[dict[str, jax.Array]], Any] | None = None,
        key: jax.Array | None = None,
    ) -> Any:
        """Draws of the observed sites from the posterior predictive.

        Computed in chunks: device memory does not grow with n. The result does, unless `reduce`
        keeps only part of each draw.

        Args:
            data: new data as `ritz.fit` takes them; observed arguments may be left out. The
                fit's own by default.
            n: how many draws.
            reduce: applied to each draw (a dict of arrays) before it is kept.
            key: the fit's own by default.

        Returns:
            a dict of arrays with a leading axis of length n; with `reduce`, a pytree of them.

        >>> # fit.predict(reduce=lambda draw: draw["y"].max())
        """
        whole_number("n", n, 1)
        return _posterior.predict(self, data, n, reduce, self._key(key))

    @only_if.model
    def prior_predict(self, n: Any = 1000, key: jax.Array | None = None) -> dict[str, np.ndarray]:
        """Draws of every site, latent and observed, from the model without its data."""
        whole_number("n", n, 1)
        one = lambda target, key, _: target.prior_predict(key)
        return at_keys(one, self.target, n, jax.random.fold_in(self._key(key), 2), ())

    @only_if.model
    def log_likelihood(self) -> dict[str, np.ndarray]:
        """Log density of each observation at each stored draw, unscaled."""
        one = lambda target, x, _: target.log_likelihood(x)
        return at_rows(one, self.target, self._drawn["x"], ())

    @only_if.discrete
    def discrete_posterior(self) -> dict[str, np.ndarray]:
        r"""Posterior probabilities of the values of each discrete site.

        Of one that was summed out,

        .. math:: p(z_n = k \mid y) \approx
            \frac{1}{S} \sum_s p(z_n = k \mid \theta_s, y), \quad \theta_s \sim q,

        over the stored draws; of one that q draws, how often it has each value there.

        Returns:
            by site, an array of its shape (in a scan, with a leading axis over the steps) and a
            last axis over its values, in the order of its support.
        """
        return _probabilities.of_values(self.target, self._drawn["x"])

    @only_if.model
    def observed_data(self) -> dict[str, np.ndarray]:
        """The data at the observed sites."""
        see = lambda target: target.observed_data()
        return jax.tree.map(np.asarray, compile(see, self.target)(self.target))

    def to_arviz(self, coords: dict[str, Any] | None = None) -> Any:
        """ArviZ InferenceData: posterior, posterior_predictive, log_likelihood, observed_data.

        Axes are named after the model's plates.

        Args:
            coords: labels for named axes, such as `{"school": ["A", "B"]}`.
        """
        return to_arviz(self, coords)

    def save(self, path: Any) -> Any:
        """Write the fit into a directory; see `ritz.load`."""
        from ritz.io import save

        return save(self, path)

    def unconstrained_mean(self) -> np.ndarray:
        """The mean of the stored draws in unconstrained space, shape (d,)."""
        return self._drawn["x"].mean(axis=0)

    # -- drawing ----------------------------------------------------------------------------

    def _key(self, key: jax.Array | None) -> jax.Array:
        return jax.random.fold_in(self.key, 0x5A) if key is None else key

    @functools.cached_property
    def _drawn(self) -> dict[str, Any]:
        began = spent()
        drawn = self.take(DRAWS, self._key(None))
        self.info["compile_seconds"] += spent() - began
        return drawn

    def take(self, n: int, key: jax.Array) -> dict[str, Any]:
        """Draws with what belongs to them: `values`, `x` and `log_weights`."""
        if self.correction == "nuts":
            return _nuts.rows(self._drawn, n, key)
        draw = _posterior.drawn if self.correction is None else _posterior.resampled
        return draw(self.q, self.target, n, key)
