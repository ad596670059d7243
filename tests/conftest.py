"""Every annotated function of Ritz is checked at run time in the tests."""

from jaxtyping import install_import_hook

install_import_hook("ritz", "beartype.beartype")
