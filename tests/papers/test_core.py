"""What the claims of papers on the core rest on."""

from ritz.papers.core import fast_matrix_sqrt as paper


def test_scalar_rule_has_the_right_root_and_a_wrong_gradient():
    """The wrong variant of fast-matrix-sqrt, without its timing."""
    a, g = paper._matrices(0, 2)
    for root, right in ((paper.pade, True), (paper.scalar_rule, False)):
        exact, found = paper._both(paper.eigen), paper._both(lambda a, f=root: f(a, 8, 10))
        value, gradient = map(paper._error, found(a, g), exact(a, g))
        assert value < 1e-2
        assert (gradient < 1e-2) == right
