"""Latent vectors of the nodes of a graph: the whole graph is one datum."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Int, Key

from ritz._errors import RitzError, whole_number
from ritz.family import AbstractFamily, MeanField
from ritz.latent._diagnosis import ACTIVE
from ritz.latent._encoder import bounded
from ritz.target import AbstractTarget, Quantity, Site


class Sparse(eqx.Module):
    """A sparse matrix, by its entries.

    Attributes:
        rows: of each entry.
        columns: of each entry.
        values: of each entry.
        shape: of the matrix.
    """

    rows: Int[Array, " m"]
    columns: Int[Array, " m"]
    values: Any
    shape: tuple[int, int] = eqx.field(static=True)

    def __matmul__(self, dense: Float[Array, "columns k"]) -> Float[Array, "rows k"]:
        parts = self.values[:, None] * dense[self.columns]
        return jax.ops.segment_sum(parts, self.rows, self.shape[0], indices_are_sorted=True)


class GraphModel(AbstractTarget):
    """See `graph_model`.

    Attributes:
        sites: one, `z`, a row for each node.
        edges: pairs of nodes.
        shifts: of the nodes' order, each of which pairs all nodes, to estimate a sum over pairs.
    """

    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    edges: Int[Array, "m 2"]
    shifts: int = eqx.field(static=True)

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        z, m = x.reshape(self.sites[0].shape), len(self.edges)
        n = len(z)
        total = 0.5 * n * (n - 1)
        if key is None:
            squares = jax.nn.softplus((z * z).sum(axis=1)).sum()
            everywhere = 0.5 * (jax.nn.softplus(z @ z.T).sum() - squares)
        else:
            # Each node with the one that is a random number of places on: pairs without gathering.
            twice, shifts = jnp.concatenate([z, z]), jax.random.randint(key, (self.shifts,), 1, n)
            others = [jax.lax.dynamic_slice_in_dim(twice, s, n) for s in shifts]
            means = [jax.nn.softplus((z * other).sum(axis=1)).mean() for other in others]
            everywhere = total * sum(means) / self.shifts
        on = (z[self.edges[:, 0]] * z[self.edges[:, 1]]).sum(axis=1)
        absent = everywhere - jax.nn.softplus(on).sum()
        present = (total - m) / m * jax.nn.log_sigmoid(on).sum()
        prior = -0.5 * (x @ x) - 0.5 * len(x) * jnp.log(2.0 * jnp.pi)
        return {"z": prior, "edges": present - absent}

    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        return {"z": x.reshape(self.sites[0].shape)}

    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        return jnp.asarray(values["z"]).reshape(-1)

    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.zeros((), x.dtype)

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        return jnp.zeros(self.dim), "networks"

    def doubts(self, fit: Any) -> list[str]:
        """Whether nodes are told apart."""
        varied = node_means(fit).var(axis=0) > ACTIVE
        collapsed = (
            "the latents have collapsed: all nodes have the same posterior mean; use more steps, "
            "or a smaller latent dimension"
        )
        return [fit.message] * bool(fit.message) + [collapsed] * (not varied.any())


class GraphEncoder(AbstractFamily):
    """See `graph_encoder`.

    Attributes:
        graph: the normalised adjacency.
        features: of nodes; None for the identity.
        first: weights of the first layer.
        second: weights of the second, for means and log sds.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "log_prob", "entropy", "reparameterised"}
    )
    graph: Sparse
    features: Sparse | None
    first: Float[Array, "f h"]
    second: Float[Array, "h k"]

    @property
    def dim(self) -> int:
        return self.graph.shape[0] * self.second.shape[1] // 2

    def posterior(self) -> MeanField:
        """Means and log sds of all nodes, one vector."""
        seen = self.first if self.features is None else self.features @ self.first
        hidden = jax.nn.relu(self.graph @ seen)
        loc, log_scale = jnp.split(self.graph @ (hidden @ self.second), 2, axis=1)
        return MeanField(loc.reshape(-1), bounded(log_scale.reshape(-1)))

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.posterior().sample(key)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.posterior().log_prob(x)

    def entropy(self) -> Float[Array, ""]:
        return self.posterior().entropy()


def graph_model(nodes: Any, edges: Any, latent: Any = 16, *, shifts: Any = 16) -> GraphModel:
    r"""An undirected graph whose nodes have latent vectors, the more alike the likelier an edge.

    .. math:: z_i \sim \mathcal{N}(0, I), \qquad p(A_{ij} = 1 \mid z) = \sigma(z_i^\top z_j).

    Edges are few, so that each counts as many as there are absent ones for it, which makes the
    density that of a reweighted likelihood:

    .. math:: \sum_{i<j} w A_{ij} \log\sigma(z_i^\top z_j)
        + (1 - A_{ij}) \log\sigma(-z_i^\top z_j), \qquad w = \frac{\text{absent}}{\text{present}}.

    In a fit the sum over absent ones is estimated from random pairs, without bias.
    Kipf and Welling, "Variational graph auto-encoders", 2016, equation 2.

    Args:
        nodes: how many.
        edges: pairs of nodes, each once, shape (m, 2).
        latent: dimensions of a node.
        shifts: random shifts of the nodes' order in each step, each of which makes `nodes` pairs.

    Raises:
        RitzError: for edges that are not pairs of different nodes, each once.

    >>> graph_model(4, [[0, 1], [1, 2]], latent=2).dim
    8
    """
    whole_number("nodes", nodes, 2)
    whole_number("latent", latent, 1)
    whole_number("shifts", shifts, 1)
    pairs = _edges("graph_model", nodes, edges)
    shape = (int(nodes), int(latent))
    site = Site("z", shape, shape, 0, "real", ("real",), ("node", "z_dim_1"))
    return GraphModel((site,), (), (), pairs, int(shifts))


def graph_encoder(
    nodes: Any,
    edges: Any,
    features: Any = None,
    *,
    latent: Any = 16,
    hidden: Any = 32,
    seed: Any = 0,
) -> GraphEncoder:
    r"""Gaussian latents of nodes, from a graph convolutional network of two layers.

    .. math:: (m, \log\sigma) = \tilde A\,\mathrm{relu}(\tilde A X W_0)\,W_1, \qquad
        \tilde A = D^{-1/2} (A + I) D^{-1/2}.

    Kipf and Welling, "Variational graph auto-encoders", 2016, equation 1, and "Semi-supervised
    classification with graph convolutional networks", 2017, equation 2.

    Args:
        nodes: how many.
        edges: pairs of nodes, each once, shape (m, 2).
        features: X, an array (nodes, f), which may be mostly zeros; None for the identity.
        latent: dimensions of a node.
        hidden: units of the first layer.
        seed: of the weights.

    Raises:
        RitzError: for edges that are not pairs of different nodes, or features of other rows.

    >>> import ritz
    >>> ring = np.stack([np.arange(6), np.roll(np.arange(6), 1)], axis=1)
    >>> q = graph_encoder(6, ring, latent=2, hidden=4)
    >>> fit = ritz.fit(graph_model(6, ring, latent=2), family=q, steps=50, progress=False)
    >>> node_means(fit).shape
    (6, 2)
    """
    for name, value in (("latent", latent), ("hidden", hidden), ("nodes", nodes)):
        whole_number(name, value, 1)
    pairs = np.asarray(_edges("graph_encoder", nodes, edges))
    loops = np.stack([np.arange(nodes)] * 2, axis=1)
    rows, columns = np.concatenate([pairs, pairs[:, ::-1], loops]).T
    degree = np.bincount(rows, minlength=nodes)
    graph = _sparse(rows, columns, (degree[rows] * degree[columns]) ** -0.5, (nodes, nodes))
    given, width = None, int(nodes)
    if features is not None:
        x = np.asarray(features, float)
        if x.ndim != 2 or len(x) != nodes:
            raise RitzError(
                f"graph_encoder: features of shape {x.shape} arrived, expected ({nodes}, f)"
            )
        row, column = np.nonzero(x)
        given, width = _sparse(row, column, x[row, column], (int(nodes), x.shape[1])), x.shape[1]
    one, two = jax.random.split(jax.random.key(whole_number("seed", seed, 0)))
    return GraphEncoder(graph, given, _glorot(one, width, hidden), _glorot(two, hidden, 2 * latent))


def node_means(fit: Any) -> np.ndarray:
    """Posterior means of nodes, shape (nodes, latent).

    Args:
        fit: of a `graph_model` by a `graph_encoder`.
    """
    loc = paramax.unwrap(fit.q).posterior().loc
    return np.asarray(loc).reshape(fit.target.sites[0].shape)


def _edges(name: str, nodes: Any, edges: Any) -> Int[Array, "m 2"]:
    found = np.asarray(edges)
    if found.ndim != 2 or found.shape[1:] != (2,) or not len(found) or found.dtype.kind not in "iu":
        raise RitzError(
            f"{name}: edges of shape {found.shape} and dtype {found.dtype} arrived, expected pairs "
            "of whole numbers, (m, 2)"
        )
    if found.min() < 0 or found.max() >= nodes or (found[:, 0] == found[:, 1]).any():
        raise RitzError(f"{name}: an edge is not between two different nodes from 0 to {nodes - 1}")
    if len(np.unique(np.sort(found, axis=1), axis=0)) < len(found):
        raise RitzError(f"{name}: an edge arrived twice; give each once, in either direction")
    return jnp.asarray(found)


def _sparse(rows: Any, columns: Any, values: Any, shape: tuple[int, int]) -> Sparse:
    order = np.lexsort((columns, rows))
    fixed = paramax.NonTrainable(jnp.asarray(values[order], float))
    return Sparse(jnp.asarray(rows[order]), jnp.asarray(columns[order]), fixed, shape)


def _glorot(key: Any, given: int, wanted: int) -> Array:
    most = (6.0 / (given + wanted)) ** 0.5
    return jax.random.uniform(key, (given, wanted), minval=-most, maxval=most)
