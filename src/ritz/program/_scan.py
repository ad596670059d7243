"""How many of a scan's operands are fixed, and how many are carried along."""

from typing import Any


def operands(params: dict[str, Any]) -> tuple[int, int]:
    """Numbers of constants and of carries; the other operands are read row by row."""
    if "ft_in" in params:  # since JAX 0.11: the three groups, as one tree
        fixed, carry, _ = params["ft_in"].unpack()
        return len(fixed), len(carry)
    return params["num_consts"], params["num_carry"]
