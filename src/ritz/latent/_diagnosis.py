"""What a latent-variable model's latents hold."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz._draws import at_rows
from ritz.latent._bound import divergences, log_weights
from ritz.latent._codebook import Codebook
from ritz.latent._encoder import centre
from ritz.latent._hierarchy import Levels
from ritz.latent._quantised import perplexity

# A unit is active where its mean varies by so much from row to row (Burda et al. 2016, sec. 5.2).
ACTIVE = 0.01
# Below so many nats a row the latents say nothing of it.
NOTHING = 0.1
# Of a book's codes at least so many should be in use.
FEW = 0.1
_DRAWS = 16  # of z, for a divergence without a closed form


@dataclasses.dataclass(frozen=True)
class LatentDiagnosis:
    r"""What latents hold, over rows.

    Attributes:
        kl: :math:`\mathrm{KL}(q(z_i \mid x)\,\|\,p(z_i))`, mean over rows, in nats; where the
            prior's coordinates are not independent, one number for all.
        variance: of the posterior mean of each unit, from row to row.
        elbo: mean over rows, in nats; NaN where encodings are points, which have no divergence.
        reconstruction: the mean of log p(x | z).
        doubts: what speaks against the latents, a line each.
        widths: of a hierarchy's levels; `kl` is by level then.
        codes: of a codebook the perplexity of its codes over the rows, and how many there are.
    """

    kl: np.ndarray
    variance: np.ndarray
    elbo: float
    reconstruction: float
    doubts: tuple[str, ...]
    codes: tuple[float, int] | None = None
    widths: tuple[int, ...] = ()

    @property
    def active(self) -> np.ndarray:
        """Which units' means vary by more than 0.01 from row to row."""
        return self.variance > ACTIVE

    def __str__(self) -> str:
        total, many = float(self.kl.sum()), len(self.variance)
        bound = f"bound {self.elbo:.3f} nats a row: "
        fits = f"reconstruction {self.reconstruction:.3f}"
        lines = [
            f"{bound}{fits}, divergence {total:.3f}" if len(self.kl) else f"{fits} nats a row",
            f"{int(self.active.sum())} of {many} units are active",
        ]
        if self.codes:
            lines.append(f"codes are used as {self.codes[0]:.1f} of {self.codes[1]} alike would be")
        if self.widths:
            lines += [f"  level {i + 1}  {v:7.3f} nats" for i, v in enumerate(self.kl)]
        elif len(self.kl) == many:
            for i in np.argsort(-self.kl)[:20]:
                mark = "" if self.active[i] else "  not active"
                lines.append(f"  z[{i}]  {self.kl[i]:7.3f} nats{mark}")
        return "\n".join([*lines, *(f"- {line}" for line in self.doubts)])


def diagnosis(q: Any, target: Any, rows: Any, key: Any) -> LatentDiagnosis:
    """What latents hold over rows.

    Args:
        q: the encoder.
        target: the model.
        rows: by name.
        key: of draws.
    """

    def one(parts: Any, given: Any, key: Any) -> Any:
        q, target = paramax.unwrap(parts)
        row, i = given
        key = jax.random.fold_in(key, i)
        posterior, prior = target.joined(q)
        post = posterior(row)
        keys = jax.random.split(key, _DRAWS)
        if isinstance(prior, Codebook):
            z = prior.quantised(post, keys)
            kl, codes = -prior.log_prob(z)[None], prior.nearest(z)
            return {"mean": z, "kl": kl, "fit": target.log_likelihood(z, row), "codes": codes}
        fits = lambda key: target.log_likelihood(post.sample(key), row)
        fit = jax.vmap(fits)(keys).mean()
        kl = divergences(post, prior) if q.posterior.density else jnp.full(1, jnp.nan)
        if isinstance(prior, Levels) and isinstance(post, Levels):
            z = jax.vmap(post.sample)(keys)
            gap = lambda z: post.by_level(z) - prior.by_level(z)
            kl = jax.vmap(gap)(z).mean(axis=0)
        elif kl is None:
            kl = (fit - log_weights(q, target, row, keys).mean())[None]
        return {"mean": centre(post, keys), "kl": kl, "fit": fit}

    n = len(jax.tree.leaves(rows)[0])
    out = at_rows(one, (q, target), (rows, np.arange(n)), key)
    kl, fit = out["kl"].mean(axis=0), float(out["fit"].mean())
    bound, codes = fit - float(kl.sum()), None
    if not (q.posterior.density or "codes" in out):
        kl = kl[:0]
    if "codes" in out:
        many = len(target.prior.codes)
        shares = np.bincount(out["codes"].ravel(), minlength=many) / out["codes"].size
        codes = (float(perplexity(jnp.asarray(shares))), many)
    widths = target.prior.widths if isinstance(target.prior, Levels) else ()
    found = LatentDiagnosis(kl, out["mean"].var(axis=0), bound, fit, (), codes, widths)
    return dataclasses.replace(found, doubts=tuple(_lines(found)))


def of_fit(target: Any, fit: Any) -> LatentDiagnosis:
    """What latents hold over the rows that a target has seen."""
    return diagnosis(fit.q, target, target.seen, jax.random.fold_in(fit.key, 0x1A7))


def doubts(target: Any, fit: Any) -> list[str]:
    """What speaks against a fit's latents."""
    found = of_fit(target, fit)
    return [fit.message] * bool(fit.message) + list(found.doubts)


def _lines(found: LatentDiagnosis) -> list[str]:
    total = float(found.kl.sum())
    if not np.isfinite(found.elbo if len(found.kl) else found.reconstruction):
        return ["the bound is not finite on the rows that were looked at; use a smaller lr"]
    if found.codes and found.codes[0] < FEW * found.codes[1]:
        return [
            f"{found.codes[0]:.1f} of {found.codes[1]} codes are in use; use "
            "vector_quantised(restart=0.1), or fewer codes"
        ]
    if (len(found.kl) and total < NOTHING) or not found.active.any():
        held = f"they hold {total:.2g} nats a row and " if len(found.kl) else ""
        units = f"{int(found.active.sum())} of {len(found.variance)} units are active"
        return [
            f"the latents have collapsed: {held}{units}, so that the decoder does without them; "
            "use elbo(warmup=...) or elbo(free=...), a weaker decoder, or a smaller likelihood sd"
        ]
    for i, level in enumerate(found.kl if found.widths else ()):
        if level < NOTHING:
            return [
                f"level {i + 1} of the hierarchy has collapsed: it holds {level:.2g} nats a row; "
                "use fewer levels, elbo(warmup=...), or hierarchical(sd=1.0)"
            ]
    return []
