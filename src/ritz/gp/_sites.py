r"""Gaussian posteriors of functions given outputs that are not normal: a site for each row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz.gp._evidence import Conditioned
from ritz.gp._prior import Weighed

# So many steps at most; so short they are no more; so little, in nats, need not be gained.
_STEPS, _SHORT = 200, 1e-3
_GAIN = {jnp.dtype("float32"): 1e-5, jnp.dtype("float64"): 1e-9}


class Priors(eqx.Module):
    """Those of c functions.

    Attributes:
        of: one of `Dense` or `Sparse`, its arrays with one more axis, of length c or 1.
        mean: of each function.
        latents: c.
    """

    of: Any
    mean: Float[Array, " c"]
    latents: int = eqx.field(static=True)

    def each(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a function of one prior and rows of numbers gives, for each."""
        shared = len(jax.tree.leaves(self.of)[0]) == 1
        if shared:
            one = jax.tree.map(lambda v: v[0], self.of)
            return jax.vmap(lambda *row: function(one, *row))(*args)
        return jax.vmap(function)(self.of, *args)


class Sites(NamedTuple):
    r"""Of :math:`e^{bf - wf^2/2}` a row and function, f relative to the mean function.

    Attributes:
        b: their linear terms.
        w: their precisions.
    """

    b: Float[Array, "c n"]
    w: Float[Array, "c n"]


class Posterior(NamedTuple):
    """With some sites.

    Attributes:
        alpha: see `ritz.gp._prior`.
        weighed: what precisions tell.
        mean: at the rows.
        var: at the rows.
        norm: the prior's squared norm of the mean.
        kl: to the prior, in nats.
    """

    alpha: Float[Array, "c n"]
    weighed: Weighed
    mean: Float[Array, "c n"]
    var: Float[Array, "c n"]
    norm: Float[Array, ""]
    kl: Float[Array, ""]


def posterior(
    priors: Priors, w: Float[Array, "c n"], b: Any = None, alpha: Any = None
) -> Posterior:
    """The posterior of precisions and either linear terms or `alpha`.

    Args:
        priors: of the functions.
        w: precisions.
        b: linear terms.
        alpha: in their place.
    """
    weighed = priors.each(lambda p, w: p.weighed(w), w)
    if alpha is None:
        alpha = priors.each(lambda p, o, b, w: p.alpha(o, b, w), weighed, b, w)
    out = priors.each(lambda p, a: p.mean(a), alpha)
    norm = priors.each(lambda p, a: p.norm(a), alpha).sum()
    kl = (weighed.half_log_det - 0.5 * weighed.lost).sum() + 0.5 * norm
    var = jnp.maximum(weighed.var, jnp.finfo(w.dtype).tiny)
    return Posterior(alpha, weighed, priors.mean[:, None] + out, var, norm, kl)


def conditioned(priors: Priors, sites: Sites, value: Any) -> Conditioned:
    """For predictions, with one more axis."""
    return priors.each(lambda p, b, w: p.conditioned(b, w, value), sites.b, sites.w)


def converged(
    priors: Priors,
    seen: Callable[[Any, Any], tuple[Any, Any, Any]],
    penalty: Callable[[Posterior], Any] = lambda p: p.kl,
) -> tuple[Sites, Posterior]:
    r"""Sites at which nothing is left to gain, by natural-gradient steps.

    .. math:: w \leftarrow (1-\rho)\,w - \rho\,c, \qquad
        b \leftarrow (1-\rho)\,b + \rho\,(g - c\,\mathbb{E}f),

    with g and c the slope and the curvature of what each row says, in its value: those of its
    expected log likelihood (Khan and Lin, "Conjugate-computation variational inference", 2017), or
    of its log likelihood at the mean, where this is Newton's step. A step of size 1 is exact for
    normal outputs. One that loses is taken back and tried at a quarter of its size. Curvatures
    upwards count as none. No gradient passes through.

    Args:
        priors: of the functions.
        seen: from means and variances to the objective without its prior, g and -c.
        penalty: what the prior takes from it.
    """
    priors = jax.lax.stop_gradient(priors)

    def look(sites: Sites) -> Any:
        found = posterior(priors, sites.w, sites.b)
        total, slope, bend = jax.lax.stop_gradient(seen(found.mean, found.var))
        return sites, found, total - penalty(found), slope, jnp.maximum(bend, 0.0)

    def step(carry: Any) -> Any:
        (sites, found, value, slope, bend), size, _, tried = carry
        full = slope + bend * (found.mean - priors.mean[:, None])
        mix = lambda old, new: (1.0 - size) * old + size * new
        new = look(Sites(mix(sites.b, full), mix(sites.w, bend)))
        slack = 10.0 * jnp.finfo(value.dtype).eps * jnp.abs(value)
        good = jnp.isfinite(new[2]) & jnp.isfinite(new[3]).all() & (new[2] >= value - slack)
        at = jax.tree.map(
            lambda a, b: jnp.where(good, a, b), new, (sites, found, value, slope, bend)
        )
        idle = good & (new[2] - value < jnp.maximum(_GAIN[value.dtype], slack))
        longer = jnp.where(good, jnp.minimum(1.0, 2.0 * size), 0.25 * size)
        return at, longer, idle | (longer < _SHORT), tried + 1

    rows = len(priors.of.rows[0])
    nothing = jnp.zeros((priors.latents, rows), priors.mean.dtype)
    start = (look(Sites(nothing, nothing)), jnp.ones_like(priors.mean[0]), jnp.array(False), 0)
    going = lambda carry: ~carry[2] & (carry[3] < _STEPS)
    (sites, found, *_), *_ = jax.lax.while_loop(going, step, start)
    return sites, found
