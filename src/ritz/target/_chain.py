r"""Discrete states in a scan: a product of matrices over the previous state and the state.

For states :math:`z_t`, everything else in a step summed out,

.. math:: M_t(i, j) = \log p(z_t = j, y_t \mid z_{t-1} = i), \quad
    \alpha_t(j) = \log\sum_i \exp(\alpha_{t-1}(i) + M_t(i, j)),

so that the cost is linear in the length. All :math:`M_t` are made side by side.
"""

import dataclasses
import math
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax.interpreters import partial_eval
from numpyro import handlers
from numpyro.contrib.control_flow.scan import _subs_wrapper
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import Messenger

from ritz._errors import RitzError
from ritz.target import _factors
from ritz.target._factors import Factor
from ritz.target._support import Discrete
from ritz.target._tables import Indices, look_up, tables, unlike

# Stands for the states of all steps but the last.
PATH = " path"
_BEFORE = " before"
_PROBE = " scan"
_WEIGHT = " weight"


class Chains(Messenger):
    """Replaces each scan that has discrete latent sites by its chain of matrices.

    Args:
        fn: the model.
        sites: all discrete sites of the model.
        step: `step(body, carry, x, t, indices)` runs the body of a scan and gives its trace and
            its factors.
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
        step: Callable[..., tuple[Any, list[Factor]]],
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
        chain = _Chain(self, _conditioned(body, msg["kwargs"]["substitute_stack"], length))
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


class _Chain:
    """One scan; see `Chains`."""

    def __init__(self, owner: Chains, body: Callable[..., Any]) -> None:
        self.owner, self.body = owner, body
        self.merged: Factor | None = None

    def _step(self, leaves: Any, x: Any, t: Any, indices: Indices) -> Any:
        carry = jax.tree.unflatten(self.tree, leaves)
        out, traced, factors = self.owner.step(self.body, carry, x, t, indices)
        new = [
            jnp.asarray(v).astype(w.dtype)
            for v, w in zip(jax.tree.leaves(out[0]), leaves, strict=True)
        ]
        return new, out[1], traced, factors

    def look(self, init: Any, x: Any) -> bool:
        """What depends on what in a step; whether any discrete site is in it.

        Raises:
            RitzError: for a carry that depends on the state and on more.
        """
        leaves, self.tree = jax.tree.flatten(init)
        about: list[tuple[str, Any]] = []
        parts: list[Any] = []

        def outputs(leaves: Any, rest: Any, indices: Indices) -> list[Any]:
            new, y, traced, factors = self._step(leaves, *rest, indices)
            parts[:] = [traced]
            values = {("carry", i): v for i, v in enumerate(new)}
            values |= {("y", i): v for i, v in enumerate(jax.tree.leaves(y))}
            values |= {("factor", f.names[0]): f.value for f in factors}
            for name, site in traced.items():
                if name in self.owner.latent or site["type"] == "deterministic":
                    values[site["type"], name] = site["value"]
            about[:] = values
            return list(values.values())

        everything = sorted(self.owner.sites)
        rest, zeros = (x, jnp.zeros((), int)), dict.fromkeys(everything, jnp.zeros((), int))
        jaxpr = jax.make_jaxpr(outputs)(leaves, rest, zeros).jaxpr
        self.names = [name for name in self.owner.sites if name in parts[0]]
        if not self.names:
            return False
        n, m = len(leaves), len(jaxpr.invars) - len(leaves) - len(everything)
        uses = {}
        for i, key in enumerate(about):
            used = partial_eval.dce_jaxpr(jaxpr, [j == i for j in range(len(about))])[1]
            sites = {s for s, u in zip(everything, used[n + m :], strict=True) if u}
            uses[key] = ({j for j in range(n) if used[j]}, any(used[n : n + m]), sites)
        self.stateful = {j for j in range(n) if uses["carry", j][2]}
        for _ in range(n):
            self.stateful |= {j for j in range(n) if uses["carry", j][0] & self.stateful}
        for j in self.stateful:
            before, data, sites = uses["carry", j]
            if before or data:
                raise RitzError(
                    f"the carry of a scan depends on the discrete site "
                    f"{(sorted(sites) or self.names)[0]!r} and on the "
                    f"{'previous carry' if before else 'step'}, so that its values cannot be "
                    "enumerated; carry the discrete site itself, and compute the rest from it"
                )
        carried = {s for j in self.stateful for s in uses["carry", j][2]}
        self.state = [name for name in self.names if name in carried]
        before = lambda js: {s + _BEFORE for j in js & self.stateful for s in uses["carry", j][2]}
        order = [name + _BEFORE for name in self.state] + self.names
        self.dims, hidden = {}, self.owner.hidden
        for (kind, name), (js, _, sites) in uses.items():
            on = before(js) | sites
            if on and kind == "sample":
                raise RitzError(
                    f"the support of site {name!r} depends on the discrete site {self.names[0]!r}, "
                    "so that its values cannot outlive the sum; give it bounds that do not"
                )
            if on and kind == "deterministic":
                hidden.append(name)
            if on and kind == "factor":
                self.dims[name] = tuple(s for s in order if s in on)
        self.ys_depend = {
            i for (kind, i), (js, _, s) in uses.items() if kind == "y" and before(js) | s
        }
        return True

    def run(self, init: Any, xs: Any, steps: Any) -> tuple[Any, Any]:
        """The last carry and the outputs; the chain's factors are added to the owner's."""
        leaves = jax.tree.leaves(init)
        outer = self.owner.indices

        def plain(carry: Any, at: Any) -> Any:
            new, y, _, _ = self._step(carry, *at, {})
            kept = [
                v if j in self.stateful else w
                for j, (v, w) in enumerate(zip(carry, new, strict=True))
            ]
            return kept, (carry, y)

        last, (carries, ys) = jax.lax.scan(plain, leaves, (xs, steps))
        first = jax.tree.map(lambda v: v[0], (xs, steps))
        state = lambda indices: self._step(leaves, *first, indices)[0]
        self._check(leaves, first, state)
        start, rest = self._matrix(leaves, *first, None)
        later = jax.tree.map(lambda v: v[1:], (carries, xs, steps))
        each = lambda carry, x, t: self._matrix(carry, x, t, state)
        total = start
        if len(steps) > 1:
            matrices, more = jax.vmap(each)(*later)
            rest = {k: v + more[k].sum(axis=0) for k, v in rest.items()}

            def forward(alpha: Any, matrix: Any) -> Any:
                return _factors.log_sum_exp(alpha[:, None] + matrix, 0), None

            total, _ = jax.lax.scan(forward, total, matrices)
        for names, value in rest.items():
            self.owner.found.append(Factor(names, value, (), (), {}))
        sites = {name: self.owner.sites[name] for name in self.state}
        if self.merged is not None:
            counts = [site.count for site in sites.values()]
            whole = dataclasses.replace(self.merged, value=total.reshape(*counts, *total.shape[1:]))
            here = {name: outer.get(name, 0) for name in self.state}
            value = look_up(whole, sites, here)
            self.owner.found.append(dataclasses.replace(whole, value=value, dims=()))
        final = state({name: outer.get(name, 0) for name in self.names})
        last = [final[j] if j in self.stateful else v for j, v in enumerate(last)]
        flat, tree = jax.tree.flatten(ys)
        mark = outer.get(PATH, 0)
        flat = [
            v + jnp.zeros_like(v) * mark if i in self.ys_depend else v for i, v in enumerate(flat)
        ]
        return jax.tree.unflatten(self.tree, last), jax.tree.unflatten(tree, flat)

    def _sites(self, before: bool) -> list[Discrete]:
        here = [self.owner.sites[name] for name in self.names]
        states = [self.owner.sites[name] for name in self.state] if before else []
        return [dataclasses.replace(s, name=s.name + _BEFORE) for s in states] + here

    def _at(self, leaves: Any, x: Any, t: Any, state: Any) -> Callable[[Indices], list[Factor]]:
        """The factors of a step at indices of the states before it and in it."""

        def at(indices: Indices) -> list[Factor]:
            carry = leaves
            if state is not None:
                old = state({name: indices.get(name + _BEFORE, 0) for name in self.state})
                carry = [old[j] if j in self.stateful else v for j, v in enumerate(leaves)]
            return self._step(carry, x, t, indices)[3]

        return at

    def _dims(self, before: bool) -> dict[str, tuple[str, ...]]:
        keep = lambda s: before or not s.endswith(_BEFORE)
        return {name: tuple(filter(keep, dims)) for name, dims in self.dims.items()}

    def _matrix(self, leaves: Any, x: Any, t: Any, state: Any) -> Any:
        """A step's log matrix (a vector at the first), and its terms that no state is in."""
        before = state is not None
        sites, dims = self._sites(before), self._dims(before)
        found = tables(self._at(leaves, x, t, state), sites, dims)
        for name in self.names:
            if name in self.owner.weights:
                site = self.owner.sites[name]
                weight, ones = self.owner.weights[name][t], dict.fromkeys(site.local, 1.0)
                found.append(Factor((name + _WEIGHT,), weight, (name,), site.local, ones))
        states = [*(name + _BEFORE for name in self.state if before), *self.state]
        chosen = _factors.order(found, sites, states)
        left = _factors.eliminate(found, sites, chosen)
        rest = {f.names: _factors.over_plates(f, ()).value for f in left if not f.dims}
        kept = [f for f in left if f.dims]
        if not kept:  # nothing is carried, and the steps are independent
            return jnp.zeros((1,) * (1 + before)), rest
        local = self.owner.sites[self.state[0]].local
        for name in self.state:
            if self.owner.sites[name].local != local:
                raise RitzError(
                    f"the states {self.state[0]!r} and {name!r} of a scan are in different plates; "
                    "put them into the same"
                )
        merged = _factors.merge([_factors.over_plates(f, local) for f in kept], local)
        value = merged.value
        order = [merged.dims.index(s) for s in states if s in merged.dims]
        tail = list(range(len(merged.dims), value.ndim))
        value = jnp.transpose(value, order + tail)
        value = jnp.expand_dims(value, [i for i, s in enumerate(states) if s not in merged.dims])
        counts = [self.owner.sites[s.removesuffix(_BEFORE)].count for s in states]
        rows = value.shape[len(states) :]
        value = jnp.broadcast_to(value, (*counts, *rows))
        c = math.prod(self.owner.sites[name].count for name in self.state)
        value = value.reshape(*([c, c] if before else [c]), *rows)
        names = tuple(n for n in merged.names if not n.endswith(_WEIGHT))
        self.merged = dataclasses.replace(merged, names=names, dims=tuple(self.state))
        return value, rest

    def _check(self, leaves: Any, first: Any, state: Any) -> None:
        """Where indices differ along plates, compare a step with its table."""
        outer = self.owner.indices
        if not any(jnp.ndim(outer.get(name, 0)) for name in self.names):
            return
        indices = {name: outer[name] for name in self.names}
        indices |= {name + _BEFORE: jnp.flip(outer[name]) for name in self.state}
        sites, at = self._sites(True), self._at(leaves, *first, state)
        direct = {f.names: f.value for f in at(indices)}
        for f in tables(at, sites, self._dims(True)):
            if f.dims:
                bad = unlike(direct[f.names], look_up(f, {s.name: s for s in sites}, indices))
                dims = tuple(dict.fromkeys(d.removesuffix(_BEFORE) for d in f.dims))
                self.owner.mixed.append((f.names, dims, bad))


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
