"""Latents on manifolds: exact cases, wrong variants, bad input."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from scipy.special import eval_gegenbauer

import ritz
from ritz import latent
from ritz.latent import VAE, Brownian, mlp
from ritz.latent._bound import divergences

MANIFOLDS = {
    "circle": latent.sphere(1),
    "sphere": latent.sphere(2),
    "wide sphere": latent.sphere(4),
    "torus": latent.torus(2),
    "plane of lines": latent.projective(2),
    "rotations": latent.rotations(),
}
# Dimension and squared radius of the sphere that a manifold is (half of, where it is even).
COVERS = {
    "circle": (1, 1.0, False),
    "sphere": (2, 1.0, False),
    "wide sphere": (4, 1.0, False),
    "plane of lines": (2, 2.0, True),
    "rotations": (3, 8.0, True),
}
DRAWS = 8_000


def spectral(d: int, squared_radius: float, even: bool, time: float) -> float:
    """The heat kernel's divergence from the uniform law, summed over spherical harmonics."""
    nodes, weights = np.polynomial.legendre.leggauss(300)
    angle = 0.5 * math.pi * (nodes + 1.0)
    measure = weights * np.sin(angle) ** (d - 1)
    ratio = np.zeros_like(angle)
    for k in range(0, 80, 2 if even else 1):
        if d == 1:
            term = (2.0 if k else 1.0) * np.cos(k * angle)
        else:
            term = (2 * k + d - 1) / (d - 1) * eval_gegenbauer(k, 0.5 * (d - 1), np.cos(angle))
        ratio += np.exp(-0.5 * k * (k + d - 1) * time / squared_radius) * term
    ratio = np.maximum(ratio, 1e-12)
    return float((measure * ratio * np.log(ratio)).sum() / measure.sum())


@pytest.mark.parametrize("name", COVERS)
def test_the_divergence_is_that_of_the_heat_kernel(name: str) -> None:
    manifold = MANIFOLDS[name]
    for time in (0.1 * manifold.longest, manifold.longest):
        exact = spectral(*COVERS[name], time)
        assert float(latent.kernel_divergence(manifold, time)) == pytest.approx(exact, rel=0.005)
    # Without the curvature it is off, where there is any.
    bare = float(latent.kernel_divergence(manifold, time)) - 0.25 * manifold.curvature * time
    assert (abs(bare / exact - 1.0) > 0.05) == (manifold.dim > 1)


def test_the_divergence_on_a_torus_is_that_of_its_circles() -> None:
    one, two = latent.torus(1), latent.torus(2)
    exact = 2.0 * spectral(1, 1.0, False, 0.3)
    assert float(latent.kernel_divergence(two, 0.3)) == pytest.approx(exact, rel=1e-4)
    half = float(latent.kernel_divergence(one, 0.3))
    assert 2.0 * half == pytest.approx(exact, rel=1e-4)
    assert half == pytest.approx(float(latent.kernel_divergence(latent.sphere(1), 0.3)), rel=1e-5)


# By how much the inner product with the start is above that of a uniform point: decaying harmonics.
LEFT = {
    "circle": lambda t: math.exp(-0.5 * t),
    "sphere": lambda t: math.exp(-t),
    "wide sphere": lambda t: math.exp(-2.0 * t),
    "torus": lambda t: 2.0 * math.exp(-0.5 * t),
    "plane of lines": lambda t: 2.0 / 3.0 * math.exp(-1.5 * t),
    "rotations": lambda t: 3.0 * math.exp(-0.5 * t),
}


@pytest.mark.parametrize("name", LEFT)
def test_the_walk_has_the_moments_of_brownian_motion(name: str) -> None:
    manifold = MANIFOLDS[name]
    law, start = latent.uniform(manifold), latent.uniform(manifold).sample(jax.random.key(1))
    keys = jax.random.split(jax.random.key(0), DRAWS)
    along = lambda q: np.asarray(jax.jit(jax.vmap(q.sample))(keys), np.float64) @ np.asarray(start)
    even = along(law)
    middle = 1.0 / 3.0 if name == "plane of lines" else 0.0
    assert abs(even.mean() - middle) < 4.5 * even.std() / DRAWS**0.5
    time = 0.5 * manifold.longest
    walk = along(Brownian(start, jnp.asarray(time), manifold, 40))
    gap = walk.mean() - middle
    # Steps are finite: a fortieth of the first-order change is allowed for them.
    room = 4.5 * walk.std() / DRAWS**0.5 + (LEFT[name](0.0) - LEFT[name](time)) / 40
    assert abs(gap - LEFT[name](time)) < room
    for wrong in (0.8 * time, 1.25 * time):
        assert abs(gap - LEFT[name](wrong)) > room


@pytest.mark.parametrize("name", MANIFOLDS)
def test_points_stay_on_the_manifold_and_projections_are_the_nearest(name: str) -> None:
    manifold = MANIFOLDS[name]
    x = jax.random.normal(jax.random.key(0), (manifold.ambient,))
    if name == "plane of lines":  # the part that is not symmetric is at right angles to all
        x = 0.5 * (x + x.reshape(3, 3).T.reshape(-1))
    near = manifold.project(x)
    np.testing.assert_allclose(manifold.project(near), near, atol=1e-5)
    others = jax.vmap(latent.uniform(manifold).sample)(jax.random.split(jax.random.key(1), 500))
    assert float(jnp.linalg.norm(others - x, axis=1).min()) >= float(jnp.linalg.norm(near - x))
    # The derivative is that of finite differences, and of the rank of the manifold on it.
    slope, h = jax.jacobian(manifold.project), 1e-2
    push = jax.random.normal(jax.random.key(2), x.shape)
    numeric = (manifold.project(x + h * push) - manifold.project(x - h * push)) / (2 * h)
    np.testing.assert_allclose(slope(x) @ push, numeric, atol=5e-3)
    there = np.asarray(slope(near))
    assert np.linalg.matrix_rank(there, tol=1e-3) == manifold.dim
    np.testing.assert_allclose(there @ there, there, atol=1e-4)  # onto the tangent space


def test_a_rotation_is_projected_as_by_singular_vectors() -> None:
    x = np.random.default_rng(0).normal(size=(3, 3))
    left, _, right = np.linalg.svd(x)
    exact = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    found = latent.rotations().project(jnp.asarray(x.ravel(), jnp.float32)).reshape(3, 3)
    np.testing.assert_allclose(found, exact, atol=1e-5)
    assert np.linalg.det(np.asarray(found)) == pytest.approx(1.0, abs=1e-5)


def test_winding_numbers_of_known_loops() -> None:
    t = np.linspace(0.0, 2.0 * np.pi, 50, endpoint=False)
    angles = np.stack([2.0 * t + 0.3 * np.sin(t), -t, 0.9 * np.sin(t)], axis=1)
    path = np.stack([np.cos(angles), np.sin(angles)], axis=2).reshape(50, 6)
    assert latent.winding_numbers(path).tolist() == [2, -1, 0]
    assert latent.winding_numbers(path[::-1]).tolist() == [-2, 1, 0]
    # An open path would be none: without closing it, some of the way round is missing.
    half = latent.winding_numbers(path[:25])
    assert half.tolist() != [2, -1, 0]


def ring(n: int = 256) -> np.ndarray:
    angle = np.random.default_rng(0).uniform(0.0, 2.0 * np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle), 0.5 * np.cos(2.0 * angle)], axis=1)


def on_circle(**options: Any) -> VAE:
    parts = {"posterior": latent.brownian(latent.torus(1)), "prior": latent.uniform(CIRCLE)}
    parts |= {"encoder": mlp(16), "decoder": mlp(16), "epochs": 100, "lr": 0.02, "batch": 128}
    return VAE(**({"latent": 2} | parts | options), validation=0.0, progress=False)


CIRCLE = latent.torus(1)


def test_a_circle_is_learned_as_one_and_its_bound_is_that_of_the_parts() -> None:
    x = ring()
    vae = on_circle().fit(x)
    z = vae.encode(x)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, atol=1e-5)
    order = np.argsort(np.arctan2(x[:, 1], x[:, 0]))
    assert abs(latent.winding_numbers(z[order])[0]) == 1
    q: Any = paramax.unwrap(vae.fit_.q)
    times = jax.vmap(lambda row: q.condition({"x": row}).time)(jnp.asarray(x[:32]))
    kl = np.mean([spectral(1, 1.0, False, float(t)) for t in times])
    assert kl > 1.0
    assert vae.diagnose(x[:32]).kl[0] == pytest.approx(kl, rel=0.01)


def test_divergences_are_those_from_the_same_manifold_only() -> None:
    q = Brownian(jnp.array([1.0, 0.0]), jnp.asarray(0.1), CIRCLE, 5)
    each = divergences(q, latent.uniform(CIRCLE))
    assert each is not None
    assert float(each.sum()) == pytest.approx(spectral(1, 1.0, False, 0.1), rel=1e-3)
    assert divergences(q, latent.uniform(latent.sphere(1))) is None


# -- bad input ------------------------------------------------------------------------------------

BAD = {
    "no sphere": (lambda: latent.sphere(0), "sphere=0"),
    "a line": (lambda: latent.projective(1), "projective=1"),
    "a name": (lambda: latent.brownian("torus"), "expected sphere(d)"),
    "no steps": (lambda: latent.brownian(CIRCLE, 0), "steps=0"),
    "no manifold": (lambda: latent.uniform(2), "arrived as int"),
    "an odd path": (lambda: latent.winding_numbers(np.zeros((5, 3))), "(5, 3)"),
    "other dimensions": (lambda: on_circle(latent=3).fit(ring()), "use latent=2"),
    "a normal prior": (lambda: on_circle(prior=None).fit(ring()), "prior=uniform(torus(1))"),
    "weights": (
        lambda: on_circle(objective=latent.importance(5)).fit(ring()),
        "prior=uniform(torus(1))",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(name: str) -> None:
    call, told = BAD[name]
    with pytest.raises(ritz.RitzError) as caught:
        call()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
