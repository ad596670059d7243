r"""What laws of data given a decoder's output have in common."""

import abc
from typing import ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError


class AbstractLikelihood(eqx.Module):
    r"""A law of one row of data, given a decoder's output.

    Attributes:
        numbers: how many numbers a decoder gives for each value of a row.
    """

    numbers: ClassVar[int] = 1

    def outputs(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a decoder's output for rows of a shape."""
        return shape if self.numbers == 1 else (self.numbers, *shape)

    @abc.abstractmethod
    def log_prob(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        r""":math:`\log p(x \mid \eta)` of a row, all its values together."""

    @abc.abstractmethod
    def mean(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        """The mean of a row."""

    @abc.abstractmethod
    def sample(self, out: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        """A row."""

    def expected_log_prob(
        self, mean: Float[Array, "..."], variance: Float[Array, "..."], x: Float[Array, "..."]
    ) -> Float[Array, ""]:
        r"""The mean of `log_prob` over outputs that are Gaussian with these moments.

        Raises:
            RitzError: where it has no closed form.
        """
        raise RitzError(
            f"the log density of {type(self).__name__} has no mean in closed form over Gaussian "
            "outputs; use gaussian() or poisson(), or the objective elbo()"
        )

    def check(self, x: np.ndarray) -> None:
        """Refuse data that it has no density for.

        Raises:
            RitzError: saying what arrived.
        """

    def for_data(self, x: np.ndarray) -> "AbstractLikelihood":
        """The same, at a sensible start for data."""
        return self

    def standard(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By what an encoder's input is shifted and scaled."""
        return np.zeros(()), np.ones(())


def within(name: str, x: np.ndarray, low: float, high: float, instead: str) -> None:
    least, most = float(x.min()), float(x.max())
    if least < low or most > high:
        raise RitzError(
            f"{name}: data from {least:.4g} to {most:.4g} arrived, expected {low:g} to {high:g}; "
            f"rescale them, or use {instead}"
        )
