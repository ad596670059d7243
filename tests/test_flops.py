"""Operations of a function: by hand, and as the compiler counts them."""

import jax
import jax.numpy as jnp
import pytest

import ritz
from ritz.latent import convolutional, mlp
from ritz.report import flops


def compiled(function, *args):
    found = jax.jit(function).lower(*args).compile().cost_analysis()
    return found["flops"]


def test_by_hand():
    a, b = jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5))
    assert flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), a, b) == 2 * 2 * 3 * 4 * 5
    assert flops(lambda a: (a + a).sum(), a) == 48
    assert flops(lambda a: jnp.where(a > 0, a, 0.0), a) <= 48
    assert flops(lambda a: a.reshape(-1)[None].T, a) == 0


def test_scan_is_its_steps_and_a_condition_its_dearer_branch():
    w = jnp.ones((8, 8))
    once = flops(lambda x: w @ x, w)
    assert flops(lambda x: jax.lax.scan(lambda x, _: (w @ x, None), x, None, 7)[0], w) == 7 * once
    assert flops(lambda x: jax.lax.fori_loop(0, 7, lambda _, x: w @ x, x), w) >= 7 * once
    both = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: w @ w @ x, lambda x: w @ x, x)
    assert flops(both, w) == 2 * once


def test_a_gradient_is_about_three_times_the_function():
    net = mlp(64, 64)((32,), (16,), jax.random.key(0))
    loss = lambda x: (net(x) ** 2).sum()
    ratio = flops(jax.grad(loss), jnp.ones(32)) / flops(loss, jnp.ones(32))
    assert 1.9 < ratio < 2.2  # to the input alone: one product back for each one ahead


@pytest.mark.parametrize("build", [mlp(64, 32), convolutional(8, 16)])
def test_networks_as_the_compiler_counts(build):
    net = build((28, 28), (10,), jax.random.key(0))
    x = jnp.ones((16, 28, 28))
    mine, theirs = flops(jax.vmap(net), x), compiled(jax.vmap(net), x)
    assert mine == pytest.approx(theirs, rel=0.1)
    assert 0.5 * mine != pytest.approx(theirs, rel=0.1)  # a multiplication and an addition are two


def test_convolutions_of_any_kind_as_the_compiler_counts():
    x, w = jnp.ones((2, 4, 9, 9)), jnp.ones((6, 2, 3, 3))
    for how in (
        {"window_strides": (1, 1), "padding": "VALID"},
        {"window_strides": (2, 1), "padding": "SAME"},
        {"window_strides": (1, 1), "padding": ((2, 2), (1, 0)), "lhs_dilation": (2, 2)},
        {"window_strides": (1, 2), "padding": "SAME", "rhs_dilation": (2, 1)},
    ):
        f = lambda x, how=how: jax.lax.conv_general_dilated(x, w, feature_group_count=2, **how)
        assert flops(f, x) == pytest.approx(compiled(f, x), rel=0.01)


def test_what_has_no_count_is_told():
    with pytest.raises(ritz.RitzError, match="no fixed cost"):
        flops(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: x * 2, x), 1.0)
    with pytest.raises(ritz.RitzError, match="cholesky is not counted"):
        flops(jnp.linalg.cholesky, jnp.eye(3))
