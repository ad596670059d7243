"""`sample`: a random choice as a primitive of JAX, so that vmap, scan, cond and jit see it."""

import abc
import contextvars
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax._src.interpreters import batching  # the only rule that is told of unbatched operands
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from ritz._errors import RitzError
from ritz.estimator import AbstractEstimator, Inner, PerPart, law, registered
from ritz.family import AbstractFamily, Finite
from ritz.program._estimator_of import estimator_of


class Site:
    """What a random choice is made of, but for its arrays.

    Attributes:
        name: for messages.
        static: the distribution and the estimator, without their arrays.
        plates: the axes of a draw whose elements are independent given the parameters.
        own: how many last axes of each parameter belong to an element, or None.
    """

    def __init__(self, name: str | None, q: Any, estimator: AbstractEstimator) -> None:
        self.name = name or f"a {type(q).__name__}"
        arrays, self.static = eqx.partition((q, estimator), eqx.is_array)
        leaves, self.treedef = jax.tree.flatten(arrays)
        self.leaves = leaves
        self.plates = law.batch_shape(q)
        self.own = law.own_axes(q)
        self.aval = estimator.value(q)

    def rebuild(self, leaves: Any) -> tuple[Any, AbstractEstimator]:
        """The distribution and the estimator with these arrays."""
        return eqx.combine(jax.tree.unflatten(self.treedef, leaves), self.static)


class Nested(AbstractFamily):
    """A distribution whose density is itself estimated: what `marginal` and `normalize` return.

    The methods without a key are for programs; a family's own draw with a key, outside of them.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "sample_and_log_prob"})
    composed: ClassVar[bool] = True

    @abc.abstractmethod
    def draw(self) -> Any:
        """A draw."""

    @abc.abstractmethod
    def draw_and_log_prob(self) -> tuple[Any, Any]:
        """A draw, and a log density whose negative exponential is right on average."""

    @abc.abstractmethod
    def estimate(self, x: Any) -> Any:
        """The log of an unbiased estimate of the density at a point."""

    @property
    def dim(self) -> int:
        shape = jax.eval_shape(self.sample, jax.random.key(0)).shape
        if len(shape) != 1:
            raise RitzError(
                f"a {type(self).__name__} of shape {shape} arrived as a family, expected one whose "
                "draws are vectors of the target's unconstrained dimensions"
            )
        return shape[0]

    def sample(self, key: Any) -> Any:
        from ritz.program._drawn import drawn  # which knows programs, and so this

        return jnp.asarray(drawn(self.draw, key))

    def sample_and_log_prob(self, key: Any) -> tuple[Any, Any]:
        from ritz.program._drawn import drawn

        return drawn(self.draw_and_log_prob, key)


def sample(q: Any, estimator: Any = None, name: str | None = None) -> Any:
    r"""A random choice :math:`x \sim q` in a program for `expectation`.

    Args:
        q: a family, a NumPyro distribution, any pytree with `sample(key)` and `log_prob(x)`, or
            what `marginal` or `normalize` return.
        estimator: how the gradient in q's parameters is estimated. By default `pathwise()` where
            draws are differentiable, `enumerate_support()` where the support is finite, and
            `score()` elsewhere; in an objective of `ritz.fit`, the fit's for its family.
        name: for messages.

    Returns:
        a draw. Where the estimator relaxes a discrete choice, its relaxation.

    Raises:
        RitzError: if the estimator cannot serve this distribution (it names one that can), or
            something else arrives.

    >>> import numpyro.distributions as dist
    >>> import jax, ritz
    >>> from ritz.objective import expectation, sample
    >>> program = lambda p: 3.0 * sample(dist.Bernoulli(p))
    >>> float(expectation(program).grad(jax.random.key(0), 0.25))
    3.0
    """
    handler = HANDLER.get()
    if isinstance(q, Nested):
        check_nested(q, estimator)
        return q.draw() if handler is None else handler(q, None, name)[0]
    _check("sample", q, estimator)
    estimator = estimator_of(q, estimator)
    if isinstance(estimator, PerPart):
        estimator.check(q)
        pairs = zip(q.parts, estimator.parts, strict=True)
        return jnp.concatenate([sample(part, own, name) for part, own in pairs])
    if isinstance(q, Finite):
        return q.at(sample(q.choices, estimator, name or q.name or None))
    return make(q, estimator, name) if handler is None else handler(q, estimator, name)[0]


def _check(call: str, q: Any, estimator: Any) -> None:
    """Refuse what is no distribution, or no estimator."""
    if isinstance(q, type):
        raise RitzError(f"{call}: the class {q.__name__} arrived; make one: {q.__name__}(...)")
    if not callable(getattr(q, "sample", None)):
        what = f"{call}: {'None' if q is None else type(q).__name__} arrived"
        raise RitzError(
            f"{what}, expected a family, a NumPyro distribution, or a pytree with sample(key) and "
            "log_prob(x)"
        )
    if law.is_constant(q):
        raise RitzError(f"{call}: a Delta arrived, which is no random choice; use its value")
    if estimator is None or isinstance(estimator, AbstractEstimator):
        return
    if isinstance(estimator, type) and issubclass(estimator, AbstractEstimator):
        known = [r.name for r in registered().values() if type(r.example()) is estimator]
        arrived, use = f"the class {estimator.__name__}", [*known, estimator.__name__][0]
    elif callable(estimator):
        own = getattr(estimator, "__name__", "")
        arrived = f"the function {own}" if own.isidentifier() else type(estimator).__name__
        use = own if own in registered() else "pathwise"
    else:
        arrived = f"{estimator!r}" if isinstance(estimator, str) else type(estimator).__name__
        use = estimator if isinstance(estimator, str) and estimator in registered() else "pathwise"
    raise RitzError(
        f"{call}: {arrived} arrived as the estimator, expected one of ritz.estimator, such as "
        f"{use.partition('(')[0]}()"
    )


def make(q: Any, estimator: AbstractEstimator, name: str | None) -> Any:
    """The choice itself, whoever else handles choices."""
    estimator.check(q)
    site = Site(name, q, estimator)
    return sample_p.bind(*site.leaves, site=site, mapped=(), sizes=())


# Who makes the choices of a program whose density is wanted, and gives each with its log density;
# see `ritz.program._nested`.
HANDLER: contextvars.ContextVar[Any] = contextvars.ContextVar("ritz_handler", default=None)


def log_prob(q: Any, x: Any) -> Any:
    """The log density of a point, summed over independent elements.

    For what `marginal` and `normalize` return, the logarithm of an estimate.

    Args:
        q: as for `sample`, or what `marginal` or `normalize` return.
        x: a point.

    >>> import numpyro.distributions as dist
    >>> round(float(log_prob(dist.Normal(0.0, 1.0), 0.0)), 4)
    -0.9189
    """
    return q.estimate(x) if isinstance(q, Nested) else law.log_prob(q, x).sum()


def check_nested(q: Nested, estimator: Any) -> None:
    """Refuse an estimator for what has its own inside."""
    if estimator is not None and not isinstance(estimator, Inner):
        how = (
            "sir(K, proposal, estimator)" if hasattr(q, "target") else "its program's sample(q, …)"
        )
        raise RitzError(
            f"{type(estimator).__name__} cannot estimate a {type(q).__name__}, which is made of "
            f"choices that each have their own estimator; name it in {how}"
        )


def sample_and_log_prob(q: Any, estimator: Any = None, name: str | None = None) -> tuple[Any, Any]:
    """A draw and its log density, as the estimator wants it (some detach q's parameters).

    Args:
        q: as for `sample`, or what `marginal` or `normalize` return.
        estimator: as for `sample`.
        name: as for `sample`.

    Returns:
        the draw, and log q of it, summed over independent elements.
    """
    if isinstance(q, Nested):
        check_nested(q, estimator)
        handler = HANDLER.get()
        return q.draw_and_log_prob() if handler is None else handler(q, None, name)
    _check("sample_and_log_prob", q, estimator)
    estimator = estimator_of(q, estimator)
    if isinstance(estimator, PerPart):
        estimator.check(q)
        each = zip(q.parts, estimator.parts, strict=True)
        pairs = [sample_and_log_prob(part, own, name) for part, own in each]
        return jnp.concatenate([x for x, _ in pairs]), sum(lp for _, lp in pairs)
    if isinstance(q, Finite):
        z, log_q = sample_and_log_prob(q.choices, estimator, name or q.name or None)
        return q.at(z), log_q
    if HANDLER.get() is None and isinstance(q, AbstractFamily) and estimator.pairs:
        both = make(_Pair(q), estimator, name or type(q).__name__)
        return both[:-1], both[-1]
    if isinstance(q, AbstractFamily) and "log_prob" not in q.capabilities:
        raise RitzError(
            f"{type(estimator).__name__} needs log_prob at a given point, and "
            f"{type(q).__name__} has a density only together with a draw; use pathwise()"
        )
    x = sample(q, estimator, name)
    return x, estimator.log_prob(q, x)


class _Pair(eqx.Module):
    """A family's draw with its log density behind it: one pass gives both, and some have no other.

    Attributes:
        q: the family.
    """

    q: AbstractFamily

    @property
    def reparameterised(self) -> bool:
        return "reparameterised" in self.q.capabilities

    def sample(self, key: Any) -> Any:
        x, log_q = self.q.sample_and_log_prob(key)
        return jnp.append(x, log_q.astype(x.dtype))


sample_p = Primitive("ritz_sample")


@sample_p.def_abstract_eval
def _abstract(*leaves: Any, site: Site, mapped: Any, sizes: Any) -> Any:
    return ShapedArray((*sizes, *site.aval.shape), site.aval.dtype)


@sample_p.def_impl
def _outside(*leaves: Any, site: Site, mapped: Any, sizes: Any) -> Any:
    raise RitzError(
        f"sample({site.name}) was called outside a program; write "
        "ritz.objective.expectation(program).value(key, ...) around the function that samples"
    )


def _batch(axis: Any, leaves: Any, dims: Any, *, site: Site, mapped: Any, sizes: Any) -> Any:
    """Elements of a vmap draw independently, also where no parameter differs between them."""
    moved = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(leaves, dims, strict=True)]
    flags = tuple(d is not None for d in dims)
    out = sample_p.bind(*moved, site=site, mapped=(flags, *mapped), sizes=(axis.size, *sizes))
    return out, 0


def _lower(ctx: Any, *leaves: Any, site: Site, **_: Any) -> Any:
    return _outside(*leaves, site=site, mapped=(), sizes=())


def _differentiate(primals: Any, tangents: Any, *, site: Site, **_: Any) -> Any:
    raise RitzError(
        f"a program differentiates through sample({site.name}); differentiate the expectation "
        "instead: ritz.objective.expectation(program).grad(key, ...)"
    )


batching.fancy_primitive_batchers[sample_p] = _batch
mlir.register_lowering(sample_p, _lower)
ad.primitive_jvps[sample_p] = _differentiate
