"""Entropic transport by an energy: one potential network, and Langevin samples of its plans."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import whole_number
from ritz.family import AbstractFamily
from ritz.objective import AbstractDirect
from ritz.target import samples_of
from ritz.transport._clouds import cloud, positive, samples_for, units


class EnergyPlan(AbstractFamily):
    r"""Plans :math:`\pi(y\mid x)\propto e^{(f(y) - c(x, y))/\epsilon}`; see `energy_plan`.

    The network sees positions in units of the target: less the mean, over one scale.

    Attributes:
        potential: f, from (d,) to a number.
        source: samples that draws start from; not trained.
        frame: the means of source and target, and the scale; not trained.
        epsilon: in those units; not trained.
        step: of the Langevin chain, in units of the cost's curvature.
        length: steps of a chain.
        rows: samples that a training step sees, of each side.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample"})
    potential: eqx.nn.MLP
    source: Any
    frame: Any
    epsilon: Any
    step: float = eqx.field(static=True)
    length: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return int(self.potential.in_size)

    @property
    def objective(self) -> "EnergyPlanLoss":
        return EnergyPlanLoss()

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.pair(key)[1]

    def pair(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """A draw (x, y) of the plan, whose x is one of the source's samples."""
        which, walk = jax.random.split(key)
        (m0, _, scale), source = paramax.unwrap((self.frame, self.source))
        x = m0 + scale * source[jax.random.randint(which, (), 0, len(source))]
        return x, self.push(x, walk)

    def push(self, x: Float[Array, " d"], key: Key[Array, ""]) -> Float[Array, " d"]:
        r"""A Langevin draw of :math:`\pi(y\mid x)`."""
        m0, m1, scale = paramax.unwrap(self.frame)
        return m1 + scale * self.walk((x - m0) / scale, key)

    def walk(self, z: Float[Array, " d"], key: Key[Array, ""]) -> Float[Array, " d"]:
        """The end of a chain from z, in units of the target."""
        eps, h = self.temperature, self.step
        climb = jax.value_and_grad(lambda y: self.potential(y) - 0.5 * ((y - z) ** 2).sum())

        def move(at: tuple[Array, Array, Array], key: Array) -> tuple[Any, None]:
            y, height, slope = at
            noise, accept = jax.random.split(key)
            ahead = jnp.sqrt(2.0 * h * eps) * jax.random.normal(noise, y.shape, y.dtype)
            new = y + h * slope + ahead
            there, back = climb(new)
            forward, backward = (ahead**2).sum(), ((y - new - h * back) ** 2).sum()
            ratio = (there - height + (forward - backward) / (4.0 * h)) / eps
            fine = jnp.log(jax.random.uniform(accept, dtype=ratio.dtype)) < ratio
            return jax.tree.map(
                lambda a, b: jnp.where(fine, a, b), (new, there, back), (y, height, slope)
            ), None

        keys = jax.random.split(key, self.length)
        return jax.lax.scan(move, (z, *climb(z)), keys)[0][0]

    @property
    def temperature(self) -> Float[Array, ""]:
        """Of the chains: epsilon."""
        return paramax.unwrap(self.epsilon)


class EnergyPlanLoss(AbstractDirect):
    r"""Its gradient is that of :math:`\mathbb{E}_{x}\mathbb{E}_{\pi(y|x)} f - \mathbb{E}_{p_1} f`.

    An ascent direction of the semi-dual, theorem 3 of the paper. The samples of the plans are
    constants; the number itself is no measure of progress.
    """

    def loss(
        self, q: EnergyPlan, target: Any, key: Key[Array, ""], batch: Any = None
    ) -> Float[Array, ""]:
        start, other, walks = jax.random.split(key, 3)
        _, m1, scale = q.frame
        x = q.source[jax.random.randint(start, (q.rows,), 0, len(q.source))]
        y = (samples_of(target, "energy_plan").draw(other, q.rows) - m1) / scale
        drawn = jax.lax.stop_gradient(jax.vmap(q.walk)(x, jax.random.split(walks, q.rows)))
        return jax.vmap(q.potential)(drawn).mean() - jax.vmap(q.potential)(y).mean()


def energy_plan(
    x0: Any,
    epsilon: Any = 0.1,
    width: Any = 64,
    depth: Any = 2,
    length: Any = 20,
    step: Any = 0.3,
    rows: Any = 128,
) -> Callable[[Any, Any], EnergyPlan]:
    r"""Entropic transport from samples to samples, by an energy-based model.

    The semi-dual of entropic transport for the cost :math:`c = \tfrac12\|x-y\|^2` is

    .. math:: \max_f\ \mathbb{E}_{p_1} f(y) - \epsilon\,\mathbb{E}_{p_0}\log\int
        e^{(f(y) - c(x,y))/\epsilon}\,dy,

    whose gradient is the mean of :math:`\nabla f` over data less that over samples of the plans
    :math:`\pi(y\mid x) \propto e^{(f(y) - c(x,y))/\epsilon}`. These are made by Langevin steps

    .. math:: y \leftarrow y + h\,(\nabla f(y) - (y - x)) + \sqrt{2 h \epsilon}\,\xi

    from x, in training and afterwards; there is no second network. Each is accepted or not by
    Metropolis' rule, which the paper leaves out, so that a step that is too long for a steep
    network is refused. P. Mokrov, A. Korotin, A. Kolesov, N. Gushchin and E. Burnaev,
    "Energy-guided entropic neural optimal transport", ICLR 2024, arXiv:2304.06094, algorithm 1.

    The loss of a step is no measure of progress: give `ritz.fit` a number of steps.

    Args:
        x0: samples of the source, shape (N, d).
        epsilon: weight of the entropy, in units of the cost.
        width: of the network's hidden layers.
        depth: how many there are; none for a straight potential.
        length: steps of a chain.
        step: h, below 1.
        rows: samples that a training step sees, of each side.

    Returns:
        what `ritz.fit` takes as `family`, with a target of `ritz.target.from_samples`. What is
        fitted has `sample` (which pushes a random source sample), `pair` and `push`.

    Raises:
        RitzError: for samples that are not of one space, or sizes that are not positive.

    >>> import numpy as np, ritz
    >>> rng = np.random.default_rng(0)
    >>> x0, x1 = rng.normal(size=(500, 1)), 3.0 + 2.0 * rng.normal(size=(500, 1))
    >>> family = energy_plan(x0, epsilon=0.5, width=16)
    >>> fit = ritz.fit(ritz.target.from_samples(x1), family=family, steps=500, progress=False)
    >>> bool(abs(fit.mean()[0] - 3.0) < 0.4)
    True
    """
    source, eps = cloud("x0", x0), positive("epsilon", epsilon)
    whole_number("depth", depth, 0)
    sizes = {"width": width, "length": length, "rows": rows}
    for name, size in sizes.items():
        whole_number(name, size, 1)
    h = positive("step", step)

    def energy_plan(target: Any, start: Any) -> EnergyPlan:
        m0, m1, scale = units(source, samples_for(source, target, "energy_plan"))
        d, key = source.shape[1], jax.random.key(0)
        return EnergyPlan(
            potential=eqx.nn.MLP(d, "scalar", width, depth, jax.nn.softplus, key=key),
            source=paramax.non_trainable((jnp.asarray(source) - m0) / scale),
            frame=paramax.non_trainable((m0, m1, scale)),
            epsilon=paramax.non_trainable(jnp.asarray(eps / float(scale) ** 2)),
            step=h,
            length=length,
            rows=rows,
        )

    return energy_plan
