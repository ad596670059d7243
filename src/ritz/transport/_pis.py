"""The path integral sampler."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from ritz.family._own_density import OwnDensity
from ritz.transport._controlled import AbstractControlled, grid_of, parts


class PIS(AbstractControlled):
    """A controlled Brownian motion from a point; see `pis`."""

    registered_as: ClassVar[str | None] = "pis"
    control: Any
    centre: Any
    scale: Any
    grid: Any
    density: OwnDensity = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def begin(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.centre


def pis(
    target: Any,
    start: Float[Array, " d"],
    steps: Any = 64,
    scale: Any = 1.0,
    width: Any = 64,
) -> PIS:
    r"""The path integral sampler: Brownian motion from a point, with a learned drift.

    .. math:: z_{k+1} = z_k + u(t_k, z_k)\,\delta_k + \sqrt{\delta_k}\,\varepsilon_k, \quad
        z_0 = 0, \qquad
        \log\hat q = \log\mathcal{N}(x_K \mid c, \sigma^2)
        + \sum_k \sqrt{\delta_k}\, u_k^\top\varepsilon_k + \tfrac12 \delta_k \|u_k\|^2,

    where :math:`x = c + \sigma z` and the times are :math:`t_k = 1 - (1 - k/K)^2`, whose last steps
    are short: the last one's noise, :math:`\sigma/K`, is to be narrower than the target. With the
    optimal control, :math:`\nabla\log\mathbb{E}[\tilde p(x_1)/\mathcal{N}(x_1) \mid z_t]`, of
    continuous time the ends are draws of the target and all log-weights are log Z. Zhang and Chen
    2022, "Path integral sampler" (equations 8 and 10, algorithm 1). By default it is trained on the
    reverse KL divergence of paths; `ritz.objective.log_variance(64)` keeps more of the modes that
    the reference reaches (Richter and Berner 2024, "Improved sampling via learned diffusions",
    section 3).

    Args:
        target: the target that it is for.
        start: unconstrained point, c.
        steps: K.
        scale: sigma; the reference is to reach wherever the target has mass.
        width: of the control's network.

    Returns:
        a `PIS`.

    Raises:
        RitzError: for a target without log density on all the data, or a wrong number.

    >>> import jax, jax.numpy as jnp
    >>> from ritz.target import from_log_density
    >>> target = from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    >>> pis(target, jnp.zeros(2), steps=8).steps
    8
    """
    own = parts("pis", target, start, steps, scale, width)
    t = 1.0 - (1.0 - np.arange(int(steps) + 1) / int(steps)) ** 2
    sd = np.sqrt(np.diff(t))
    return PIS(grid=grid_of(t, np.ones_like(sd), sd, start.dtype), **own)
