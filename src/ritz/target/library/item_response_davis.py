"""Who went to which event: an item-response model of eighteen women and fourteen events."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

SOURCE = "Davis, Gardner and Gardner, Deep South (1941)"
# A row a woman; the events that she was seen at, from 1.
_SEEN = (
    (1, 2, 3, 4, 5, 6, 8, 9),
    (1, 2, 3, 5, 6, 7, 8),
    (2, 3, 4, 5, 6, 7, 8, 9),
    (1, 3, 4, 5, 6, 7, 8),
    (3, 4, 5, 7),
    (3, 5, 6, 8),
    (5, 6, 7, 8),
    (6, 8, 9),
    (5, 7, 8, 9),
    (7, 8, 9, 12),
    (8, 9, 10, 12),
    (8, 9, 10, 12, 13, 14),
    (7, 8, 9, 10, 12, 13, 14),
    (6, 7, 9, 10, 11, 12, 13, 14),
    (7, 8, 10, 11, 12),
    (8, 9),
    (9, 11),
    (9, 11),
)


def data() -> dict[str, Any]:
    """Return the women's attendance, a row for each of the 252 pairs.

    Returns:
        the model's arguments.

    >>> int(data()["y"].sum())
    89
    """
    table = np.zeros((18, 14), int)
    for woman, events in enumerate(_SEEN):
        table[woman, np.asarray(events) - 1] = 1
    woman, event = np.divmod(np.arange(table.size), 14)
    return {"woman": woman, "event": event, "y": table.ravel()}


def model(woman: Array | np.ndarray, event: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """Two parameters an event: how hard it is to be at, and how well it tells women apart.

    Args:
        woman: of each row, from 0.
        event: of each row, from 0.
        y: 1 where she was there.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["ability"]["value"].shape
    (18,)
    """
    mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
    spread = numpyro.sample("spread", dist.HalfNormal(2.0))
    sharpness = numpyro.sample("sharpness", dist.HalfNormal(0.5))
    with numpyro.plate("women", 18):
        ability = jnp.asarray(numpyro.sample("ability", dist.Normal(0.0, 1.0)))
    with numpyro.plate("events", 14):
        difficulty = jnp.asarray(numpyro.sample("difficulty", dist.Normal(mean, spread)))
        # Positive: a woman's ability is to be there at all.
        discrimination = jnp.asarray(
            numpyro.sample("discrimination", dist.LogNormal(0.0, sharpness))
        )
    with numpyro.plate("rows", len(woman)):
        logits = discrimination[event] * (ability[woman] - difficulty[event])
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)
