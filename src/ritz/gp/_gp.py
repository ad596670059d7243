"""Gaussian processes as an estimator."""

import functools
from typing import Any

from ritz._precision import as_made
from ritz.gp._learn import extended, learn
from ritz.gp._likelihood import likelihood_of
from ritz.gp._predictions import Predictions, precision


@functools.partial(as_made, info=precision)
class GP(Predictions):
    r"""Gaussian processes: regression, classes, counts and more.

    .. math:: f \sim \mathcal{GP}(m, k_\theta), \qquad y_i \sim p(y_i \mid f(x_i)).

    Up to 1,000 rows all of them are looked at, beyond that the process is seen through 256 inducing
    inputs, chosen from the rows (`greedy_variance`), and its hyperparameters are learned from
    10,000 rows at most. With normal noise the evidence is exact or Titsias' lower bound of it, and
    up to 10,000 rows predictions are from all of them all the same, with the hyperparameters that
    inducing inputs tell, unless `inducing` is given. With other likelihoods a Gaussian
    posterior of the function takes its place, found afresh for all hyperparameters: the best one
    (`inference="variational"`), that of the mode's curvature ("laplace") or that of expectation
    propagation ("ep").

    Hyperparameters are at the mode of evidence times prior, searched from the best of nine points,
    or have a posterior over which predictions are averaged. Every number of the kernel and of the
    likelihood is log-normal a priori about where it starts; the mean is flat, or
    normal with an sd of 5 where outputs have no unit. Rows are seen relative to the mean row.
    Outputs with noise are standardised, so that variances are shares of theirs. On a processor all
    of it is in float64, whatever JAX's own setting, elsewhere in that.

    Rasmussen and Williams, "Gaussian processes for machine learning", 2006, sections 2.2, 3.4, 3.6
    and 5.4; Titsias 2009; Khan and Lin 2017.

    Args:
        kernel: from `ritz.gp`; its numbers are where they start. By default `matern(2.5)` with a
            length for each column, from the column's sd.
        likelihood: from `ritz.gp`; `gaussian()` by default.
        inducing: how many inducing inputs; by default none up to 1,000 rows.
        inference: "variational", "laplace" or "ep", where the likelihood is not Gaussian; the first
            by default.
        hyperparameters: "mode"; "posterior" for full Bayes by `ritz.fit`'s own choice; "ep" for the
            mode by the evidence that expectation propagation has for variational sites.
        prior_sd: of the logs of hyperparameters, about their starts.
        seed: of starts and draws.
        progress: as for `ritz.fit`.

    >>> import numpy as np
    >>> x = np.linspace(0.0, 6.0, 40)[:, None]
    >>> gp = GP(progress=False).fit(x, np.sin(x[:, 0]))
    >>> mean, sd = gp.predict(np.array([[3.0]]), return_std=True)
    >>> bool(abs(mean[0] - np.sin(3.0)) < 0.02)
    True
    """

    def __init__(
        self,
        kernel: Any = None,
        likelihood: Any = None,
        *,
        inducing: Any = None,
        inference: Any = None,
        hyperparameters: Any = "mode",
        prior_sd: Any = 1.5,
        seed: Any = 0,
        progress: Any = None,
    ) -> None:
        """Nothing is checked or built before `fit`, as in scikit-learn."""
        self.kernel, self.likelihood = kernel, likelihood
        self.inducing, self.inference = inducing, inference
        self.hyperparameters, self.prior_sd = hyperparameters, prior_sd
        self.seed, self.progress = seed, progress

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, RegressorTags, Tags, TargetTags

        target = TargetTags(required=True)
        if likelihood_of(self.likelihood).classifies:
            return Tags("classifier", target, classifier_tags=ClassifierTags())
        return Tags("regressor", target, regressor_tags=RegressorTags())

    def __repr__(self) -> str:
        parts = (self.kernel, self.likelihood)
        return f"GP({', '.join(type(p).__name__ for p in parts if p is not None)})"

    def fit(self, x: Any, y: Any) -> "GP":
        """Learn hyperparameters of rows.

        Args:
            x: inputs, shape (n, d), or (n,) for one column; an array or a data frame.
            y: outputs, shape (n,): numbers, counts, or labels of any kind.

        Returns:
            itself, with `fit_`, the fit of hyperparameters.

        Raises:
            RitzError: for data or settings that do not fit, before anything is computed.
        """
        trained = learn(self, x, y)
        self.fit_, self._trained, self._told = trained.fit, trained, None
        self.n_features_in_ = len(trained.middle)
        return self

    def update(self, x: Any, y: Any) -> "GP":
        """Take in more rows, as they arrive, with hyperparameters as they are.

        The posterior is that of all rows so far, found afresh; units, inducing inputs and `fit_`
        stay.

        Args:
            x: inputs, shape (k, d).
            y: outputs, shape (k,).

        Returns:
            itself.

        Raises:
            RitzError: before `fit`, or for rows and outputs unlike those of training.
        """
        self._fitted  # noqa: B018
        self._trained = extended(self._trained, self.likelihood_, x, y)
        self._told = None
        return self
