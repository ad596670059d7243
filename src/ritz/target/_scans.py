"""Scans that have discrete sites in them, each replaced by its chain of matrices."""

from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro import handlers
from numpyro.contrib.control_flow.scan import _subs_wrapper
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import Messenger

from ritz._errors import RitzError
from ritz.target._chain import Chain
from ritz.target._factors import Factor
from ritz.target._support import Discrete
from ritz.target._tables import Indices

_PROBE = " scan"


class Scans(Messenger):
    """Replaces each scan that has discrete latent sites by its chain of matrices.

    Args:
        fn: the model.
        sites: all discrete sites of the model.
        step: `step(body, carry, (x, t), indices)` runs the body of a scan and gives what it
            returns, its trace and its factors.
        indices: of the discrete sites outside of scans; of those in them, at the last step.
        latent: names of the continuous sites.
        weights: site -> log-weights to add, of shape (length, values, plates...).

    Attributes:
        found: the factors of the chains.
        hidden: deterministic sites in scans that depend on a state.
        mixed: of chains where an index is an array: names and dims of factors, and whether a
            factor differs there from its table.
    """

    def __init__(
        self,
        fn: Any,
        sites: Sequence[Discrete],
        step: Callable[..., Any],
        indices: Indices,
        latent: Container[str],
        weights: Mapping[str, Any],
    ) -> None:
        self.sites = {site.name: site for site in sites if site.in_scan}
        self.step, self.indices, self.latent, self.weights = step, indices, latent, weights
        self.found: list[Factor] = []
        self.hidden: list[str] = []
        self.mixed: list[tuple[tuple[str, ...], tuple[str, ...], Any]] = []
        super().__init__(fn)

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "control_flow" or not self.sites:
            return
        if msg["fn"].__name__ != "scan_wrapper":
            return
        body, init, xs, length, reverse = msg["args"]
        length = len(jax.tree.leaves(xs)[0]) if length is None else length
        init = jax.tree.map(jnp.asarray, init)
        chain = Chain(self, _conditioned(body, msg["kwargs"]["substitute_stack"], length))
        steps = jnp.arange(length)
        if reverse:
            steps, xs = steps[::-1], jax.tree.map(lambda v: v[::-1], xs)
        if not chain.look(init, jax.tree.map(lambda v: v[0], xs)):
            return
        numpyro.factor(chain.names[0] + _PROBE, 0.0)  # shows what handlers are around the scan
        carry, ys = chain.run(init, xs, steps)
        if reverse:
            ys = jax.tree.map(lambda v: v[::-1], ys)
        msg["value"] = ((length, None, carry), (PytreeTrace({}), ys))
        msg["stop"] = True

    def take(self, traced: Any) -> dict[str, Any]:
        """A trace without what this handler put into it.

        Raises:
            RitzError: if a handler around a scan changes its densities.
        """
        for name, site in traced.items():
            if name.endswith(_PROBE):
                masked = isinstance(site["fn"], numpyro.distributions.MaskedDistribution)
                if site["scale"] is not None or site["cond_indep_stack"] or masked:
                    raise RitzError(
                        f"site {name.removesuffix(_PROBE)!r} is discrete and in a scan inside of a "
                        "plate, scale or mask; put these into the body of the scan"
                    )
        return {name: site for name, site in traced.items() if not name.endswith(_PROBE)}


def _conditioned(body: Callable[..., Any], stack: Any, length: int) -> Callable[..., Any]:
    """The body of a scan under the handlers inside of which it was called."""
    for kind, _ in stack:
        if kind != "condition":
            raise RitzError(f"a scan with a discrete site is inside of {kind}; use condition")

    def run(carry: Any, x: Any, t: Any) -> Any:
        fn = body
        for _, values in stack:
            fn = handlers.condition(fn, condition_fn=partial(_subs_wrapper, values, t, length))
        return fn(carry, x)

    return run
