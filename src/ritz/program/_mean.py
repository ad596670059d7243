"""Functions of expectations: `mean` is used linearly, or by `plug_in` with a bias that is told."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from jaxtyping import Array

from ritz._errors import RitzError, whole_number

_ORDER = "O(1/K), K = "


def _refuse(*_: Any, **__: Any) -> Any:
    raise RitzError(
        "a mean may be added, subtracted, multiplied and divided by ordinary numbers, and returned "
        "by the program; for anything else write plug_in(g, mean), which is biased by O(1/K)"
    )


class Mean:
    """See `mean`."""

    __array_ufunc__ = None  # NumPy then leaves `array * mean` to this class

    def __init__(self, average: Array, draws: int) -> None:
        self._average, self.draws = average, draws

    def __add__(self, other: Any) -> "Mean":
        if isinstance(other, Mean):
            return Mean(self._average + other._average, min(self.draws, other.draws))
        return Mean(self._average + other, self.draws)

    def __mul__(self, other: Any) -> "Mean":
        return _refuse() if isinstance(other, Mean) else Mean(self._average * other, self.draws)

    def __truediv__(self, other: Any) -> "Mean":
        return _refuse() if isinstance(other, Mean) else Mean(self._average / other, self.draws)

    __radd__, __rmul__ = __add__, __mul__
    __neg__ = lambda self: self * -1.0
    __sub__ = lambda self, other: self + -other
    __rsub__ = lambda self, other: -self + other
    shape = dtype = ndim = property(_refuse)


_WORDS = "abs array bool complex eq float floordiv ge getitem gt int iter le len lt matmul mod ne"
for _word in f"{_WORDS} pow rfloordiv rmatmul rmod round rpow rtruediv".split():
    setattr(Mean, f"__{_word}__", _refuse)


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """JAX refuses an opaque value too, but does not say what to write."""
    try:
        yield
    except (TypeError, DeprecationWarning) as error:
        if f"{__name__}.Mean" in str(error) or "'Mean'" in str(error):
            raise _refuse() from error
        raise


def ordinary(x: Any) -> Any:
    """What a program returned, as an array."""
    return x._average if isinstance(x, Mean) else x


def mean(f: Any, draws: Any) -> Mean:
    r"""The average of K independent runs of a program, inside a program.

    .. math:: \frac1K \sum_{k=1}^K f_k, \qquad f_1, \dots, f_K \text{ independent.}

    Its expectation is f's, but that of a function g of it is not g of f's. So the average is
    opaque: it can be added to another, combined with ordinary numbers by +, -, * and /, and
    returned. `plug_in` does the rest. Rainforth et al. 2018 (nested Monte Carlo).

    Args:
        f: a program without arguments, or of the number of the run, that returns a real array.
        draws: K, at least 1.

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, mean, sample
    >>> program = lambda p: 1.0 - 2.0 * mean(lambda: sample(dist.Bernoulli(p)), draws=8)
    >>> float(expectation(program).value(jax.random.key(0), 0.25))
    0.5
    """
    whole_number("draws", draws, 1)
    if not callable(f):
        raise RitzError(f"mean: {type(f).__name__} arrived, expected a function that samples")
    parameters = inspect.signature(f).parameters.values()
    told = [p for p in parameters if p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD]
    if len(told) > 1:
        raise RitzError(f"mean: a function of {len(told)} arguments arrived, expected none or one")
    one = lambda k: ordinary(f(k) if told else f())
    return Mean(jax.vmap(one)(jnp.arange(int(draws))).mean(0), int(draws))


def plug_in(g: Any, *means: Any) -> Any:
    r"""A function of averages of K draws, as an ordinary number: biased by O(1/K).

    For a smooth g and draws of variance :math:`\sigma^2` around :math:`\mu`,

    .. math:: \mathbb{E}\, g(\bar f_K) = g(\mu) + \frac{g''(\mu)\, \sigma^2}{2K} + O(K^{-2}),

    and the estimated gradient is, without bias, that of the left side. `expectation(p).bias(*args)`
    tells that p does this. Choices under `enumerate_support` are summed out in all K-fold
    combinations; use `score()` for larger K. Rainforth et al. 2018 (nested Monte Carlo).

    Args:
        g: of as many arrays as there are means.
        *means: what `mean` returns.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> from ritz.objective import expectation, mean, plug_in, sample
    >>> def program(p):
    ...     return plug_in(jnp.log, mean(lambda: 1.0 + sample(dist.Bernoulli(p)), draws=2))
    >>> round(float(expectation(program).value(jax.random.key(0), 0.5)), 4)  # log(1.5) = 0.4055
    0.376
    >>> expectation(program).bias(0.5)
    'O(1/K), K = 2: plug_in of log'
    """
    if not callable(g):
        raise RitzError(f"plug_in: {type(g).__name__} arrived, expected a function")
    if not means or not all(isinstance(m, Mean) for m in means):
        found = ", ".join(type(m).__name__ for m in means) or "nothing"
        raise RitzError(f"plug_in: {found} arrived, expected what mean(f, K) returns")

    def step(*averages: Array) -> Any:
        return g(*averages)

    # The name stays with the operation, through vmap and scan, for `biases` to find.
    name = getattr(g, "__name__", type(g).__name__).replace("<lambda>", "a function")
    step.__name__ = f"{_ORDER}{min(m.draws for m in means)}: plug_in of {name}"
    return jax.jit(step)(*map(ordinary, means))


def biases(jaxpr: Any) -> list[str]:
    """The orders of the biases of a traced program, each once."""
    found: list[str] = []
    for eqn in jaxpr.eqns:
        name = str(eqn.params.get("name"))
        found += [name] if name.startswith(_ORDER) else []
        found += [each for inner in jaxprs_in_params(eqn.params) for each in biases(inner)]
    return list(dict.fromkeys(found))
