"""What a latent-variable model's latents hold."""

import dataclasses
from typing import Any

import jax
import numpy as np
import paramax
from jaxtyping import Array

from ritz._draws import at_rows
from ritz.latent._bound import divergences, log_weights

# A unit is active where its mean varies by so much from row to row (Burda et al. 2016, sec. 5.2).
ACTIVE = 0.01
# Below so many nats a row the latents say nothing of it.
NOTHING = 0.1
_DRAWS = 16  # of z, for a divergence without a closed form


@dataclasses.dataclass(frozen=True)
class LatentDiagnosis:
    r"""What latents hold, over rows.

    Attributes:
        kl: :math:`\mathrm{KL}(q(z_i \mid x)\,\|\,p(z_i))`, mean over rows, in nats; where the
            prior's coordinates are not independent, one number for all.
        variance: of the posterior mean of each unit, from row to row.
        elbo: mean over rows, in nats.
        reconstruction: the mean of log p(x | z).
        doubts: what speaks against the latents, a line each.
    """

    kl: np.ndarray
    variance: np.ndarray
    elbo: float
    reconstruction: float
    doubts: tuple[str, ...]

    @property
    def active(self) -> np.ndarray:
        """Which units' means vary by more than 0.01 from row to row."""
        return self.variance > ACTIVE

    def __str__(self) -> str:
        total, many = float(self.kl.sum()), len(self.variance)
        lines = [
            f"bound {self.elbo:.3f} nats a row: reconstruction {self.reconstruction:.3f}, "
            f"divergence {total:.3f}",
            f"{int(self.active.sum())} of {many} units are active",
        ]
        if len(self.kl) == many:
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
        post = q.condition(row)
        keys = jax.random.split(key, _DRAWS)
        fits = lambda key: target.log_likelihood(post.sample(key), row)
        kl = divergences(post, target.prior)
        weights = log_weights(q, target, row, keys)
        fit = jax.vmap(fits)(keys).mean()
        if kl is None:
            kl = (fit - weights.mean())[None]
        return {"mean": centre(post, keys), "kl": kl, "fit": fit}

    n = len(jax.tree.leaves(rows)[0])
    out = at_rows(one, (q, target), (rows, np.arange(n)), key)
    kl, fit = out["kl"].mean(axis=0), float(out["fit"].mean())
    found = LatentDiagnosis(kl, out["mean"].var(axis=0), fit - float(kl.sum()), fit, ())
    return dataclasses.replace(found, doubts=tuple(_lines(found)))


def centre(post: Any, keys: Array) -> Array:
    """The mean of a posterior; of one that does not state it, over draws."""
    loc = getattr(post, "loc", None)
    return jax.vmap(post.sample)(keys).mean(axis=0) if loc is None else loc


def of_fit(target: Any, fit: Any) -> LatentDiagnosis:
    """What latents hold over the rows that a target has seen."""
    return diagnosis(fit.q, target, target.seen, jax.random.fold_in(fit.key, 0x1A7))


def doubts(target: Any, fit: Any) -> list[str]:
    """What speaks against a fit's latents."""
    found = of_fit(target, fit)
    return [fit.message] * bool(fit.message) + list(found.doubts)


def _lines(found: LatentDiagnosis) -> list[str]:
    total = float(found.kl.sum())
    if not np.isfinite(found.elbo):
        return ["the bound is not finite on the rows that were looked at; use a smaller lr"]
    if total < NOTHING or not found.active.any():
        return [
            f"the latents have collapsed: they hold {total:.2g} nats a row and "
            f"{int(found.active.sum())} of {len(found.variance)} units are active, so that the "
            "decoder does without them; use elbo(warmup=...) or elbo(free=...), a weaker decoder, "
            "or a smaller likelihood sd"
        ]
    return []
