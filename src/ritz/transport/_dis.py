"""The time-reversed diffusion sampler."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from ritz.family._own_density import OwnDensity
from ritz.transport._controlled import AbstractControlled, begin_normal, grid_of, parts

# How much noise the process adds in all: exp(-4) of the target's position is left at its far end.
_NOISE = 4.0


class DIS(AbstractControlled):
    """A controlled Ornstein-Uhlenbeck process; see `dis`."""

    registered_as: ClassVar[str | None] = "dis"
    control: Any
    centre: Any
    scale: Any
    grid: Any
    density: OwnDensity = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def begin(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return begin_normal(self.centre, self.scale, key)


def dis(
    target: Any,
    start: Float[Array, " d"],
    steps: Any = 64,
    scale: Any = 1.0,
    width: Any = 64,
) -> DIS:
    r"""The time-reversed diffusion sampler: the noising of the target, run backward.

    The target is turned into noise by a stationary Ornstein-Uhlenbeck process, whose steps are
    exact, and the learned control undoes it from a draw of :math:`\mathcal{N}(c, \sigma^2)`:

    .. math:: z_{k+1} = \sqrt{1-\alpha_k}\,z_k + \alpha_k u(t_k, z_k)
        + \sqrt{\alpha_k}\,\varepsilon_k, \qquad
        \log\hat q = \log\mathcal{N}(x_K \mid c, \sigma^2)
        + \sum_k \sqrt{\alpha_k}\, u_k^\top\varepsilon_k + \tfrac12 \alpha_k \|u_k\|^2,

    where :math:`x = c + \sigma z`, :math:`\alpha_k = 1 - e^{-2\beta_k}`, and the noise that is
    still to be undone after k steps is :math:`\sum_{j \ge k}\beta_j = 4(1 - k/K)^2`: the last steps
    are the shortest. Berner, Richter and Ullrich 2024, "An optimal control perspective on
    diffusion-based generative modeling" (section 3); with exact steps as in Vargas, Grathwohl and
    Doucet 2023, "Denoising diffusion samplers" (proposition 3). The optimal control is, up to the
    step, the score of the noised target against the reference's. By default it is trained on the
    reverse KL divergence of paths; `ritz.objective.log_variance(64)` keeps more of the modes that
    the reference reaches (Richter and Berner 2024, "Improved sampling via learned diffusions").

    Args:
        target: the target that it is for.
        start: unconstrained point, c.
        steps: K.
        scale: sigma; the reference is to reach wherever the target has mass.
        width: of the control's network.

    Returns:
        a `DIS`.

    Raises:
        RitzError: for a target without log density on all the data, or a wrong number.

    >>> import jax, jax.numpy as jnp
    >>> from ritz.target import from_log_density
    >>> target = from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    >>> dis(target, jnp.zeros(2), steps=8).steps
    8
    """
    own = parts("dis", target, start, steps, scale, width)
    return DIS(grid=noising(int(steps), start.dtype), **own)


def noising(steps: int, dtype: Any) -> Any:
    """The steps of a stationary Ornstein-Uhlenbeck process, the last of them short."""
    t = np.arange(steps + 1) / steps
    noise = -np.diff(_NOISE * (1.0 - t) ** 2)
    return grid_of(t, np.exp(-noise), np.sqrt(-np.expm1(-2.0 * noise)), dtype)
