"""Annotated functions of Ritz are checked at run time in the tests; long tests are marked slow."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("ritz", "beartype.beartype")

# By node id: of tests with parameters, some cases are long and others are not.
SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text().splitlines())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests of slow.txt; if all were collected, each of its lines must be one of them."""
    marked = [item for item in items if item.nodeid in SLOW]
    for item in marked:
        item.add_marker(pytest.mark.slow)
    whole = not any("::" in str(a) or str(a).endswith(".py") for a in config.args)
    if whole and not config.option.keyword and len(marked) < len(SLOW):
        gone = sorted(SLOW - {item.nodeid for item in marked})
        raise pytest.UsageError(f"tests/slow.txt names tests that do not exist: {', '.join(gone)}")
