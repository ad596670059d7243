"""Variational autoencoders, for arrays."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz._draws import at_rows
from ritz._errors import RitzError, whole_number
from ritz._sklearn import Estimator
from ritz.fit import fit as fit_
from ritz.latent._assembled import (
    assembled,
    given_like,
    latent_of,
    like,
    likelihood_of,
    objective_of,
    posterior_of,
    rows_of,
)
from ritz.latent._bound import log_weights
from ritz.latent._codebook import Codebook
from ritz.latent._diagnosis import LatentDiagnosis, diagnosis
from ritz.latent._encoder import centre
from ritz.latent._training import train
from ritz.resume import resume as resume_

_DRAWS = 16  # for a posterior mean without a closed form


class VAE(Estimator):
    r"""A variational autoencoder: a decoder, a prior, an encoder and a bound, trained together.

    .. math:: p_\theta(x) = \int p(z)\,p_\theta(x \mid z)\,dz \ge
        \mathbb{E}_{q_\phi(z \mid x)}\log\frac{p(z)\,p_\theta(x \mid z)}{q_\phi(z \mid x)}.

    Kingma and Welling, "Auto-encoding variational Bayes", 2014. A scikit-learn transformer:
    `transform` is `encode`, and it can be a step of a pipeline. What `ritz.fit` gave is `fit_`,
    with the verdict on its latents.

    Args:
        latent: how many latent dimensions; of a hierarchy the widths of its levels, from the one
            next to the data up, such as (16, 4).
        likelihood: of a row; `gaussian()` by default, each column with its own unit and sd.
        encoder: a builder such as `mlp(400)`, or an Equinox module from a standardised row to
            the posterior's numbers; of `diagonal()` (2 * latent,): means, and log sds.
        decoder: a builder, or an Equinox module from (latent,) to the likelihood's output.
        posterior: `diagonal()` by default, `point()` for objectives of points.
        prior: a family over (latent,), or a builder such as `codebook(64, 4)`; the standard normal
            by default. Its parameters are trained, where they are not `paramax.non_trainable`.
        objective: from `ritz.latent`; `elbo()` by default.
        epochs: passes over the rows, at most; by default 100, or as many as make 3,000 steps.
        batch: rows of a step.
        lr: Adam's first learning rate, which falls to zero along a half cosine.
        validation: the share of rows kept aside to tell when to end (10,000 at most); 0 for none.
        patience: epochs (of 25 steps at least) without a better bound of these after which it ends.
        seed: of networks, batches and draws.
        progress: as for `ritz.fit`.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(300, 2)) @ np.ones((2, 5))
    >>> vae = VAE(2, epochs=5, progress=False).fit(x)
    >>> vae.encode(x).shape
    (300, 2)
    """

    def __init__(
        self,
        latent: Any = 8,
        *,
        likelihood: Any = None,
        encoder: Any = None,
        decoder: Any = None,
        posterior: Any = None,
        prior: Any = None,
        objective: Any = None,
        epochs: Any = None,
        batch: Any = 128,
        lr: Any = 1e-3,
        validation: Any = 0.1,
        patience: Any = 20,
        seed: Any = 0,
        progress: Any = None,
    ) -> None:
        """Nothing is checked or built before `fit`, as in scikit-learn."""
        self.latent, self.likelihood, self.objective = latent, likelihood, objective
        self.encoder, self.decoder, self.posterior, self.prior = encoder, decoder, posterior, prior
        self.epochs, self.batch, self.lr = epochs, batch, lr
        self.validation, self.patience = validation, patience
        self.seed, self.progress = seed, progress

    # -- scikit-learn's conventions ---------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import Tags, TargetTags, TransformerTags

        return Tags("transformer", TargetTags(required=False), TransformerTags())

    def __repr__(self) -> str:
        return f"VAE(latent={self.latent})"

    # -- training ---------------------------------------------------------------------------

    def fit(
        self, x: Any, y: Any = None, *, given: Any = None, mesh: Any = None, checkpoint: Any = None
    ) -> "VAE":
        """Train on rows.

        Args:
            x: an array of shape (n, ...), a data frame, or a `ritz.data.Table`.
            y: not used.
            given: of a conditional model, what each row is given, shape (n, ...).
            mesh: as for `ritz.fit`: devices among which the rows of a step are divided.
            checkpoint: as for `ritz.fit`: a directory from which `resume` goes on.

        Returns:
            itself, with `fit_`.

        Raises:
            RitzError: for data, parts or numbers that do not fit, before training starts.
        """
        go = functools.partial(fit_, seed=self.seed, mesh=mesh, checkpoint=checkpoint)
        return train(self, x, given, go)

    def fit_transform(self, x: Any, y: Any = None) -> np.ndarray:
        """Train on rows, and encode them."""
        return self.fit(x).transform(x)

    def resume(self, checkpoint: Any, x: Any, *, given: Any = None, mesh: Any = None) -> "VAE":
        """Go on with training that was interrupted, as if it had not been.

        Args:
            checkpoint: the directory that `fit` was given.
            x: the rows that it was given.
            given: the same.
            mesh: as for `fit`; other devices than before, if you like.

        Returns:
            itself, with `fit_`.

        Raises:
            RitzError: where there is no checkpoint, it is damaged, or rows, parts or settings
                differ from those it was made with.
        """

        def go(target: Any, data: Any, *, steps: Any, **parts: Any) -> Any:
            return resume_(checkpoint, target, data, mesh=mesh, **parts)

        return train(self, x, given, go)

    def _parts(self, rows: Any) -> Any:
        """The model and the encoder at their start."""
        latent, likelihood = latent_of(self.latent), likelihood_of(self.likelihood)
        posterior = posterior_of(self.posterior, objective_of(self.objective), latent)
        parts = (likelihood, (self.encoder, self.decoder), posterior, self.prior)
        return assembled(rows, latent, *parts, self.seed)

    # -- what was learned -------------------------------------------------------------------

    def encode(self, x: Any, *, given: Any = None) -> np.ndarray:
        """Posterior means of the latents of rows, shape (n, latent); codes, of a `codebook`."""
        keys = jax.random.split(jax.random.key(0), _DRAWS)

        def one(parts: Any, row: Any, keys: Any) -> Any:
            q, target = paramax.unwrap(parts)
            posterior, prior = target.joined(q)
            post = posterior(row)
            return (
                prior.quantised(post, keys) if isinstance(prior, Codebook) else centre(post, keys)
            )

        return at_rows(one, (self._fitted.q, self._fitted.target), self._rows(x, given), keys)

    def codes(self, x: Any, *, given: Any = None) -> np.ndarray:
        """The numbers of the codes of rows, shape (n, places), where the prior is a `codebook`.

        Raises:
            RitzError: where it is not.
        """
        book = self._fitted.target.prior
        if not isinstance(book, Codebook):
            raise RitzError(
                "this VAE has no codes; train one with prior=codebook(codes, width) and "
                "objective=vector_quantised()"
            )
        return at_rows(lambda book, z, _: book.nearest(z), book, self.encode(x, given=given), ())

    transform = encode

    def decode(self, z: Any, *, given: Any = None) -> np.ndarray:
        """The mean of rows with these latents, shape (n, ...)."""
        z, target = rows_of(z), self._fitted.target
        if z.shape[1:] != (target.dim,):
            raise RitzError(
                f"decode: latents of shape {z.shape} arrived, expected (n, {target.dim})"
            )

        def one(target: Any, given: Any, _: Any) -> Any:
            z, row = given
            return paramax.unwrap(target.likelihood).mean(target.decode(z, row))

        return at_rows(one, target, (jnp.asarray(z), self._given(given, len(z))), ())

    inverse_transform = decode

    def sample(self, n: Any = 1, seed: Any = 0, *, given: Any = None) -> np.ndarray:
        """Rows drawn from the model, shape (n, ...); of a conditional one, one for each given."""
        whole_number("n", n, 1)
        whole_number("seed", seed, 0)
        if given is not None:
            n = len(rows_of(given))
        key = jax.random.key(seed)

        def one(parts: Any, given: Any, key: Any) -> Any:
            (q, target), (i, row) = paramax.unwrap(parts), given
            first, second = jax.random.split(jax.random.fold_in(key, i))
            z = target.joined(q)[1].sample(first)
            return target.likelihood.sample(target.decode(z, row), second)

        parts = (self._fitted.q, self._fitted.target)
        return at_rows(one, parts, (np.arange(n), self._given(given, n)), key)

    def log_likelihood(
        self, x: Any, draws: Any = 100, seed: Any = 0, *, given: Any = None
    ) -> np.ndarray:
        r"""The importance-weighted bound of each row's log likelihood, in nats, shape (n,).

        .. math:: \log\frac1K\sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)},
            \qquad z_k \sim q(z \mid x),

        in the data's own units. It is below the log likelihood in expectation, and rises with K.

        Args:
            x: rows.
            draws: K.
            seed: of the draws.
            given: of a conditional model, what each row is given.
        """
        whole_number("draws", draws, 1)
        whole_number("seed", seed, 0)
        fit = self._fitted
        if isinstance(fit.target.prior, Codebook) or not fit.q.posterior.density:
            raise RitzError(
                "this VAE encodes rows as points or codes, so that it has no importance-weighted "
                "bound of their likelihood; diagnose(x) tells the bound of codes"
            )

        def one(parts: Any, given: Any, key: Any) -> Any:
            row, i = given
            q, target = paramax.unwrap(parts)
            keys = jax.random.split(jax.random.fold_in(key, i), draws)
            weights = log_weights(q, target, row, keys)
            return jax.nn.logsumexp(weights) - jnp.log(draws)

        rows = self._rows(x, given)
        each, key = (rows, np.arange(len(rows["x"]))), jax.random.key(seed)
        return at_rows(one, (self._fitted.q, self._fitted.target), each, key)

    def score(self, x: Any, y: Any = None, *, given: Any = None) -> float:
        """The mean of `log_likelihood`."""
        return float(self.log_likelihood(x, given=given).mean())

    def diagnose(self, x: Any = None, *, given: Any = None) -> LatentDiagnosis:
        """What the latents hold, over these rows or some of those that it was trained on."""
        rows = self._fitted.target.seen if x is None else self._rows(x, given)
        return diagnosis(self._fitted.q, self._fitted.target, rows, jax.random.key(0))

    def save(self, path: Any) -> Any:
        """Write what was learned into one file, replacing it in one step; see `restore`."""
        from ritz.latent._saved import write

        return write(self._fitted, path)

    def restore(self, path: Any) -> "VAE":
        """What was learned by another one, made with the same parts, from the file that it saved.

        No code of the file is executed.

        Raises:
            RitzError: where there is none, it is damaged, or its parts differ.
        """
        from ritz.latent._saved import read

        self.fit_ = read(path, latent_of(self.latent), self._parts)
        return self

    def _rows(self, x: Any, given: Any = None) -> dict[str, Any]:
        return like(self._fitted.target, rows_of(x), given)

    def _given(self, given: Any, n: int) -> dict[str, Any]:
        return given_like(self._fitted.target, given, n)
