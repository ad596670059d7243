"""What a NumPyro distribution or transform is."""

from typing import Any

import numpyro.distributions as dist


def is_identity(transform: Any) -> bool:
    """Whether a transform leaves values as they are."""
    while isinstance(transform, dist.transforms.IndependentTransform):
        transform = transform.base_transform
    return type(transform) is dist.transforms.IdentityTransform


def is_factor(fn: Any) -> bool:
    """Whether a sample site's distribution is that of a `numpyro.factor`."""
    return isinstance(unwrapped(fn), dist.Unit)


def is_discrete(fn: Any) -> bool:
    """Whether a distribution is one of integers."""
    return getattr(fn.support, "is_discrete", False)


def plain(fn: Any) -> bool:
    """Whether nothing but expansion is around a distribution."""
    while isinstance(fn, dist.ExpandedDistribution):
        fn = fn.base_dist
    return fn is unwrapped(fn)


def unwrapped(fn: Any) -> Any:
    """A distribution without what expands, masks or reinterprets it."""
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def location_and_scale(fn: Any) -> tuple[Any, Any] | None:
    """Of a normal or Student-t distribution, or of the logarithm of a log-normal one."""
    fn = unwrapped(fn)
    if isinstance(fn, dist.Normal | dist.LogNormal | dist.StudentT):
        return fn.loc, fn.scale
    return None
