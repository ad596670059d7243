"""What the claim of nf-vi rests on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ritz.papers.family import nf_vi as paper


def test_a_layer_has_the_determinant_of_its_jacobian():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for _ in range(5):
            plane, z = jnp.asarray(2.0 * rng.normal(size=7)), jnp.asarray(rng.normal(size=3))
            jacobian = jax.jacfwd(lambda z, plane=plane: paper.bend(z, plane)[0])(z)
            exact = np.linalg.slogdet(jacobian)
            assert exact[0] == 1.0
            assert float(paper.bend(z, plane)[1]) == pytest.approx(exact[1], rel=1e-9)


def test_layers_of_the_encoder_move_nothing_at_first():
    planes = paper._still(jax.random.key(0), 8).reshape(8, -1)
    z, log_det = jax.lax.scan(paper.bend, jnp.arange(paper.CODE, dtype=float), planes)
    np.testing.assert_allclose(z, np.arange(paper.CODE), atol=1e-5)
    np.testing.assert_allclose(log_det, 0.0, atol=1e-5)


def test_the_wall_makes_energies_proper():
    line = np.array([3.9, 4.25, 5.0, 6.5])
    at = jnp.asarray(np.stack([line, 0.0 * line], -1))
    for which in range(4):
        wall = paper.energy(which, at) - paper.ENERGIES[which](
            at[:, 0],
            at[:, 1],
            at[:, 0],
            jnp.sin(0.5 * jnp.pi * at[:, 0]),
            3.0 * jnp.exp(-0.5 * ((at[:, 0] - 1.0) / 0.6) ** 2),
            3.0 * jax.nn.sigmoid((at[:, 0] - 1.0) / 0.3),
        )
        np.testing.assert_allclose(wall, [0.0, 0.5, 8.0, 50.0], atol=1e-3)
