r"""Discrete states in a scan: a product of matrices over the previous state and the state.

For states :math:`z_t`, everything else in a step summed out,

.. math:: M_t(i, j) = \log p(z_t = j, y_t \mid z_{t-1} = i), \quad
    \alpha_t(j) = \log\sum_i \exp(\alpha_{t-1}(i) + M_t(i, j)),

so that the cost is linear in the length. All :math:`M_t` are made side by side.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from ritz._errors import RitzError
from ritz.target import _factors
from ritz.target._factors import Factor, Mixed
from ritz.target._support import Discrete, moving_support
from ritz.target._tables import WEIGHT, Indices, look_up, tables, unlike, weight

# Stands for the states of all steps but the last.
PATH = " path"
_BEFORE = " before"


class Chain:
    """One scan with discrete sites.

    Args:
        owner: the `Scans` that it belongs to.
        body: the body of the scan, as `body(carry, x, t)`.
    """

    def __init__(self, owner: Any, body: Callable[..., Any]) -> None:
        self.owner, self.body = owner, body
        self.merged: Factor | None = None

    def step(self, leaves: Any, at: Any, indices: Indices) -> Any:
        """The new carry's leaves, the output, the trace and the factors of a step."""
        carry = jax.tree.unflatten(self.tree, leaves)
        out, traced, factors = self.owner.step(self.body, carry, at, indices)
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
            new, y, traced, factors = self.step(leaves, rest, indices)
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
                raise moving_support(name, self.names[0])
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
            new, y, _, _ = self.step(carry, at, {})
            kept = [
                v if j in self.stateful else w
                for j, (v, w) in enumerate(zip(carry, new, strict=True))
            ]
            return kept, (carry, y)

        last, (carries, ys) = jax.lax.scan(plain, leaves, (xs, steps))
        first = jax.tree.map(lambda v: v[0], (xs, steps))
        state = lambda indices: self.step(leaves, first, indices)[0]
        self._check(leaves, first, state)
        start, rest = self._matrix(leaves, first, None)
        later = jax.tree.map(lambda v: v[1:], (carries, xs, steps))
        each = lambda carry, *at: self._matrix(carry, at, state)
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

    def _at(self, leaves: Any, at: Any, state: Any) -> Callable[[Indices], list[Factor]]:
        """The factors of a step at indices of the states before it and in it."""

        def factors(indices: Indices) -> list[Factor]:
            carry = leaves
            if state is not None:
                old = state({name: indices.get(name + _BEFORE, 0) for name in self.state})
                carry = [old[j] if j in self.stateful else v for j, v in enumerate(leaves)]
            return self.step(carry, at, indices)[3]

        return factors

    def _dims(self, before: bool) -> dict[str, tuple[str, ...]]:
        keep = lambda s: before or not s.endswith(_BEFORE)
        return {name: tuple(filter(keep, dims)) for name, dims in self.dims.items()}

    def _matrix(self, leaves: Any, at: Any, state: Any) -> Any:
        """A step's log matrix (a vector at the first), and its terms that no state is in."""
        before = state is not None
        sites, dims = self._sites(before), self._dims(before)
        found = tables(self._at(leaves, at, state), sites, dims)
        for name in self.names:
            if name in self.owner.weights:
                log_weight = self.owner.weights[name][at[1]]
                found.append(weight(self.owner.sites[name], log_weight))
        states = [*(name + _BEFORE for name in self.state if before), *self.state]
        try:
            chosen = _factors.order(found, sites, states)
        except Mixed as mixed:
            choices = {(name.removesuffix(_BEFORE), plate) for name, plate in mixed.choices}
            raise Mixed(choices, mixed.names) from None
        left = _factors.eliminate(found, sites, chosen)
        # Also at the first step, where nothing is before, what elsewhere depends on a state.
        both = {*self.state, *(name + _BEFORE for name in self.state)}
        depends = lambda f: any(both & set(self.dims.get(name, ())) for name in f.names)
        kept = [f for f in left if f.dims or depends(f)]
        rest = {
            f.names: _factors.over_plates(f, ()).value for f in left if not (f.dims or depends(f))
        }
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
        names = tuple(n for n in merged.names if not n.endswith(WEIGHT))
        self.merged = dataclasses.replace(merged, names=names, dims=tuple(self.state))
        return value, rest

    def _check(self, leaves: Any, first: Any, state: Any) -> None:
        """Where indices differ along plates, compare a step with its table."""
        outer = self.owner.indices
        if not any(jnp.ndim(outer.get(name, 0)) for name in self.names):
            return
        indices = {name: outer[name] for name in self.names}
        indices |= {name + _BEFORE: jnp.flip(outer[name]) for name in self.state}
        sites, at = self._sites(True), self._at(leaves, first, state)
        direct = {f.names: f.value for f in at(indices)}
        for f in tables(at, sites, self._dims(True)):
            if any(site.local for site in sites if site.name in f.dims):
                bad = unlike(direct[f.names], look_up(f, {s.name: s for s in sites}, indices))
                dims = tuple(dict.fromkeys(d.removesuffix(_BEFORE) for d in f.dims))
                self.owner.mixed.append((f.names, dims, bad))
