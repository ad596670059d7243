"""Float64 where float32 cannot hold a model's log density."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ritz._compile import compile
from ritz._draws import generator
from ritz._mesh import mesh_of
from ritz._only_if import OnlyIf
from ritz._starts import POINTS, fine_at, scores
from ritz.family import FullRank

T = TypeVar("T", bound=type)

# Where a density changes over this many sds by as many nats more than its gradients say, rounding
# may be why.
_STEP, _OFF = 0.5, 0.1
# The spread of the difference of both, in nats, that is too much: log-weights that are off by so
# much lose a fifth of their effective draws.
_SPREAD = 0.5
# Beyond this float32 has no squares: nothing held back the search that led there.
_FAR = 1e18


def precision_of(info: Any) -> contextlib.AbstractContextManager[Any]:
    """Where `info` says that a fit was made in float64: that it is on; else nothing."""
    wanted = isinstance(info, Mapping) and info.get("dtype") == "float64"
    return jax.enable_x64(True) if wanted else contextlib.nullcontext()


def as_made(cls: T, info: Callable[[Any], Any] = lambda self: self.info) -> T:
    """A class of results whose methods run in the precision that they were made in.

    Args:
        cls: the class.
        info: what says so of one of its objects.
    """

    def within(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            with precision_of(info(self)):
                return method(self, *args, **kwargs)

        return wrapped

    for name, member in list(vars(cls).items()):
        if name.startswith("__"):
            continue
        if isinstance(member, OnlyIf):
            member.method = within(member.method)
        elif isinstance(member, functools.cached_property):
            member.func = within(member.func)
        elif isinstance(member, property):
            setattr(cls, name, property(within(member.fget), doc=member.__doc__))  # pyright: ignore
        elif callable(member):
            setattr(cls, name, within(member))
    return cls


def doubled(tree: Any) -> Any:
    """The same with float64 in place of float32; where float64 is on."""
    up = lambda v: v.astype(float) if eqx.is_inexact_array(v) else v
    return jax.tree.map(up, tree)


def rounding(target: Any, x: np.ndarray) -> str | None:
    """What float32 does to a log density, in words; None where it is as good as float64.

    Args:
        target: the target.
        x: points where it matters.
    """
    if x.dtype != np.float32 or mesh_of(target) is not None:
        return None

    def at(target: Any, x: Any) -> Any:
        return jax.lax.map(target.log_density, x)

    some = jnp.asarray(x)
    single = np.asarray(compile(at, target, some, quick=True)(target, some), np.float64)
    with jax.enable_x64(True):
        target, some = doubled(target), doubled(some)
        double = np.asarray(compile(at, target, some, quick=True)(target, some))
    known = np.isfinite(double) & (np.abs(x) < _FAR).all(axis=1)
    lost = known & np.isnan(single)
    if lost.any():
        return (
            "in float32 rounding leaves the log density no number at "
            f"{lost.mean():.0%} of the draws"
        )
    both = known & np.isfinite(single)
    spread = float((single - double)[both].std()) if both.sum() > 1 else 0.0
    if not spread > _SPREAD:
        return None
    return f"in float32 rounding moves the log density by {spread:.2g}"


def rounded(q: FullRank, target: Any, key: Any) -> str | None:
    """What float32 does to the density, where it does not change as its gradients say."""
    half = POINTS // 2
    z = generator(jax.random.fold_in(key, 2500)).normal(size=(2, half, q.dim))
    z[1] = z[0] + _STEP * z[1] / np.linalg.norm(z[1], axis=1, keepdims=True)
    loc, tril = np.asarray(q.loc), np.asarray(q.scale_tril)
    with np.errstate(over="ignore", invalid="ignore"):  # where nothing holds a Gaussian back
        x = (loc + z.reshape(POINTS, -1) @ tril.T).astype(loc.dtype)
    value, score = scores(target, jnp.asarray(x))
    if fine_at(value, score).all():
        slope = 0.5 * (score[:half] + score[half:])
        off = value[half:] - value[:half] - ((x[half:] - x[:half]) * slope).sum(axis=1)
        if (off**2).mean() < _OFF**2:
            return None
    return rounding(target, x)
