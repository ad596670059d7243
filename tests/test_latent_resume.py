"""Training of an autoencoder that was interrupted, and on two devices."""

import functools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import ritz
from ritz.latent import VAE, mlp
from ritz.latent._training import train

rng = np.random.default_rng(0)
X = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 6))


def made(width=16, **how):
    settings = {"epochs": 12, "batch": 50, "progress": False}
    return VAE(2, encoder=mlp(width), decoder=mlp(16), **(settings | how))


def arrays(vae):
    leaves = jax.tree.leaves((vae.fit_.q, vae.fit_.target))
    return [np.asarray(v) for v in leaves if hasattr(v, "shape")]


def stopped(path, after):
    """Trained until so many steps."""

    def stop(state, steps, info):
        if steps >= after:
            raise KeyboardInterrupt

    go = functools.partial(ritz.fit, seed=0, checkpoint=path, callbacks=[stop])
    return train(made(), X, None, go)


@pytest.mark.parametrize("after", [20, 50])
def test_what_was_interrupted_ends_with_the_same_bits(after, tmp_path):
    first = stopped(tmp_path / "run", after)
    assert first.fit_.stop_reason == "interrupted"
    whole, again = made().fit(X), made().resume(tmp_path / "run", X)
    assert again.fit_.info["steps"] == whole.fit_.info["steps"] > first.fit_.info["steps"]
    same = lambda a, b: all((v == w).all() for v, w in zip(arrays(a), arrays(b), strict=True))
    assert same(again, whole)
    assert not same(first, whole)
    assert same(made().resume(tmp_path / "run", X), whole)  # which had ended


def test_what_differs_is_refused(tmp_path):
    stopped(tmp_path / "run", 20)
    for other, x, told in [
        (made(), X + 1.0, "the same one"),
        (made(8), X, "the same one"),
        (made(epochs=20), X, "the same one"),
        (made(), X[:, :5], "the same one"),
    ]:
        with pytest.raises(ritz.RitzError, match=told):
            other.resume(tmp_path / "run", x)
    with pytest.raises(ritz.RitzError, match="no checkpoint at"):
        made().resume(tmp_path / "none", X)
    with pytest.raises(ritz.RitzError, match="checkpoint arrived as int"):
        made().fit(X, checkpoint=3)
    with pytest.raises(ritz.RitzError, match="another fit"):
        made().fit(X, checkpoint=tmp_path / "run")


SCRIPT = """
import sys, jax, numpy as np
sys.path.insert(0, "tests")
from test_latent_resume import X, made
alone, shared = made(batch=48).fit(X), made(batch=48).fit(X, mesh=2)
assert len(jax.devices()) == 2
print(shared.fit_.info["mesh"])
np.testing.assert_allclose(shared.encode(X), alone.encode(X), rtol=1e-6, atol=1e-8)
"""


def test_two_devices_give_the_answer_of_one():
    flags = "--xla_force_host_platform_device_count=2"
    env = os.environ | {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 devices" in done.stdout
