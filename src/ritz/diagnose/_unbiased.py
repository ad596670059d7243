"""Whether the gradients that a program gives are unbiased."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from ritz._errors import RitzError, described, takes, whole_number
from ritz.program import Expectation, compared, expectation

CHUNK = 1000


@dataclasses.dataclass(frozen=True)
class Unbiased:
    """What `check_unbiased` found; true where nothing speaks against it.

    Attributes:
        z: the distance from the reference in standard errors, for the value and each entry of
            the gradient.
        limit: what the largest may be.
        estimate: the means over draws: the value, then the gradient.
        reference: what they were compared with.
        se: standard errors of the difference.
        draws: how many.
        bias: of a program that plugs averages into functions, in its own number of draws; else
            None. See `ritz.objective.plug_in`.
    """

    z: np.ndarray
    limit: float
    estimate: np.ndarray
    reference: np.ndarray
    se: np.ndarray
    draws: int
    bias: str | None = None

    def __bool__(self) -> bool:
        return bool(np.isfinite(self.z).all() and (np.abs(self.z) <= self.limit).all())

    def __str__(self) -> str:
        says = "no sign of bias" if self else "BIASED"
        worst = int(np.argmax(np.nan_to_num(np.abs(self.z), nan=np.inf)))
        numbers = f"{self.estimate[worst]:.5g} against {self.reference[worst]:.5g}"
        told = f"; as a function of expectations, biased by {self.bias}" if self.bias else ""
        where = "the value" if worst == 0 else f"entry {worst - 1} of the gradient"
        return (
            f"{says}: {where} is {self.z[worst]:.1f} standard errors off (limit {self.limit:.1f}, "
            f"{self.draws} draws): {numbers}{told}"
        )


def check_unbiased(
    program: Callable[..., Any],
    *args: Any,
    exact: Any = None,
    draws: Any = 20_000,
    seed: int = 0,
    comparisons: Any = 1,
) -> Unbiased:
    r"""Compare a program's estimated value and gradient with what they should be on average.

    The mean over many draws is compared with `exact` and its derivative, or, without it, with an
    independent run in which every choice is estimated by its score function, with its plain log
    density: this is unbiased wherever log densities are right. A choice that an estimator relaxes
    has its hard values there, in relaxed form. The limit is four standard errors, corrected for
    the number of entries times `comparisons` (Bonferroni): where nothing is biased, all of them
    pass but with the probability that one normal number is four standard errors off.

    Of a program with `ritz.objective.plug_in`, this tests the expectation at its own number of
    draws; the result's `bias` tells how that differs from the function of the expectations.

    Args:
        program: as for `ritz.objective.expectation`.
        *args: its arguments; the gradient is in the first.
        exact: a function of the same arguments that gives the expectation.
        draws: how many gradients are averaged.
        seed: of the draws.
        comparisons: how many such calls are judged together.

    Returns:
        the comparison: true where nothing speaks against it, and a line of text when printed.

    Raises:
        RitzError: for fewer than 100 draws or one comparison, programs without a gradient, or an
            `exact` of other arguments or of another form.

    >>> import numpyro.distributions as dist
    >>> from ritz.objective import sample
    >>> def program(p):
    ...     return 2.0 * sample(dist.Bernoulli(p))
    >>> bool(check_unbiased(program, 0.3, exact=lambda p: 2.0 * p))
    True
    """
    whole_number("draws", draws, 100)
    whole_number("comparisons", comparisons, 1)
    if not args:
        raise RitzError("check_unbiased: the program needs an argument to take a gradient in")
    if exact is not None:
        takes("exact", exact, [f"argument {i + 1}" for i in range(len(args))])
    key, other = jax.random.split(jax.random.key(seed))
    estimate, variance = _moments(expectation(program), args, key, draws)
    if exact is None:

        @functools.wraps(program)
        def plain(*args: Any) -> Any:
            with compared():
                return program(*args)

        reference, more = _moments(expectation(plain), args, other, draws)
        variance = variance + more
    else:
        reference = _exact(exact, args)
    rounding = 20.0 * float(np.finfo(jax.dtypes.canonicalize_dtype(float)).eps)
    se = np.sqrt(variance / draws) + rounding * np.maximum(np.abs(reference), 1e-3)
    from scipy import stats  # takes 0.3 s to import

    limit = float(stats.norm.isf(stats.norm.sf(4.0) / (len(se) * comparisons)))
    z = (estimate - reference) / se
    bias = expectation(program).bias(*args)
    return Unbiased(z, limit, estimate, reference, se, int(draws), bias)


def _exact(exact: Callable[..., Any], args: Any) -> np.ndarray:
    """The value and the gradient of a function without choices."""
    params, fixed = eqx.partition(args[0], eqx.is_inexact_array_like)
    of = lambda params: exact(eqx.combine(params, fixed), *args[1:])
    found = jax.eval_shape(of, params)
    if getattr(found, "shape", None) != () or found.dtype.kind != "f":
        raise RitzError(
            f"exact returned {described(found)}, expected one real number: the expectation of what "
            "the program returns"
        )
    both = jax.value_and_grad(of)(jax.tree.map(jnp.asarray, params))
    return np.asarray(jax.flatten_util.ravel_pytree(both)[0], float)


def _moments(wanted: Expectation, args: Any, key: Any, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of value and gradient, accumulated in double precision."""

    @jax.jit
    def some(keys: Any) -> Any:
        def one(key: Any) -> Any:
            return jax.flatten_util.ravel_pytree(wanted.value_and_grad(key, *args))[0]

        return jax.vmap(one)(keys)

    keys = jax.random.split(key, draws)
    found = [np.asarray(some(keys[i : i + CHUNK]), float) for i in range(0, draws, CHUNK)]
    rows = np.concatenate(found)
    return rows.mean(0), rows.var(0)
