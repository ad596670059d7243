"""What a program returns, drawn: outside of expectations, where no estimator has a say."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Key

from ritz.program._estimator_of import compared
from ritz.program._expectation import run
from ritz.program._graph import graph
from ritz.program._value import Records


def drawn(program: Callable[[], Any], key: Key[Array, ""]) -> Any:
    """Run a program with its choices drawn.

    Args:
        program: which returns any pytree of arrays.
        key: for its choices.

    >>> import numpyro.distributions as dist
    >>> from ritz.objective import sample
    >>> drawn(lambda: sample(dist.Bernoulli(1.0)), jax.random.key(0)).item()
    1
    """
    with compared():  # an estimator may stack its choice, or relax it
        closed, shapes = jax.make_jaxpr(program, return_shape=True)()
    flow = graph(closed)
    values = run(flow, [], key, Records(), [False] * len(flow.outputs))
    return jax.tree.unflatten(jax.tree.structure(shapes), [value.array for value in values])
