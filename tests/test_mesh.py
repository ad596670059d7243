"""Several devices and processes give the answer of one, and share the work."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ritz
from ritz import _mesh

SCRIPT = Path(__file__).with_name("mesh_fits.py")
ALL = ("default", "adam", "one share", "batches", "odd", "odd adam", "paths", "density", "resumed")
# A path is a sequence of line searches, in which rounding grows.
LOOSE = {"paths": 1e-7}


def start(folder, devices, names, *processes, x64):
    env = os.environ | {"JAX_ENABLE_X64": str(int(x64)), "JAX_PLATFORMS": "cpu"}
    env |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, str(SCRIPT), str(folder), ",".join(names)]
    return subprocess.Popen([*command, *map(str, processes)], env=env, stderr=subprocess.PIPE)


def finish(*started):
    try:
        for process in started:
            _, error = process.communicate(timeout=900)
            assert process.returncode == 0, error.decode()[-3000:]
    finally:
        for process in started:
            process.kill()


def read(folder, process=0):
    told = json.loads((folder / f"{process}.json").read_text())
    return dict(np.load(folder / f"{process}.npz")), told


def apart(found, other, of):
    """The largest difference in what two fits found, relative to what it is of."""
    names = [name for name in found if name.startswith(f"{of}/")]
    assert names
    gap = lambda a, b: np.abs(a - b).max() / max(np.abs(a).max(), 1e-300)
    return max(gap(found[name], other[name]) for name in names)


def check_one_answer(found, told, other, theirs, names, tolerance):
    for name in names:
        a, b = f"one/{name}", f"mesh/{name}"
        renamed = {k.replace("mesh/", "one/", 1): v for k, v in other.items()}
        same = apart(found, renamed, a) < LOOSE.get(name, tolerance)
        assert same == (name != "one share"), name
        assert theirs[b]["plain"], "draws are NumPy arrays"
        assert theirs[b]["explained"] == theirs[b]["mesh"][-1]
        if same:
            for what in ("stop", "steps"):
                assert told[a][what] == theirs[b][what]


def check_split(told, name, whole, parts):
    """No program holds what is split as a whole; that of one device does."""
    assert whole in told[f"one/{name}"]["shapes"]
    assert whole not in told[f"mesh/{name}"]["shapes"]
    assert parts in told[f"mesh/{name}"]["shapes"]


def test_eight_devices_give_the_answer_of_one(tmp_path):
    names = ("adam", "one share")
    finish(start(tmp_path, 8, names, x64=False))
    found, told = read(tmp_path)
    check_one_answer(found, told, found, told, names, 1e-4)
    check_split(told, "adam", "4,4096", "4,512")
    assert not any("4096" in shape for shape in told["mesh/adam"]["shapes"])
    assert told["mesh/adam"]["mesh"] == [
        "on 8 devices: rows of data are split",
        "x (4096×5): 512 rows on each device",
        "y (4096): 512 rows on each device",
    ]
    assert told["mesh/adam"]["compiled again"] is False
    assert told["mesh/adam"]["predicted"] == [20, 4096]
    one, mesh = (ritz.load(tmp_path / f"saved-{label}") for label in ("one", "mesh"))
    assert "mesh" in mesh.info
    assert "mesh" not in one.info
    np.testing.assert_allclose(mesh.sample(100)["noise"], one.sample(100)["noise"], rtol=1e-4)


def test_eight_devices_give_the_answer_of_one_in_every_kind_of_fit(tmp_path):
    finish(start(tmp_path, 8, ALL, x64=True))
    found, told = read(tmp_path)
    check_one_answer(found, told, found, told, ALL, 1e-9)
    check_split(told, "default", "12,4096", "12,512")
    check_split(told, "batches", "4,64", "4,8")
    # Where rows do not divide, points, draws and paths are split: 12, 8 and 4 of them.
    check_split(told, "odd", "12,1001", "2,1001")
    check_split(told, "odd adam", "8,1001", "1,1001")
    check_split(told, "paths", "4,1001", "1,1001")
    check_split(told, "odd", "500,1001", "1001,63")
    assert told["mesh/odd"]["mesh"][0] == "on 8 devices: draws and points of a step are split"


def test_two_processes_give_the_answer_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    names = ("default", "adam", "batches", "odd", "resumed")
    finish(start(one, 1, names, x64=True))
    finish(*(start(two, 2, names, port, 2, process, x64=True) for process in (0, 1)))
    found, told = read(one)
    for process in (0, 1):
        check_one_answer(found, told, *read(two, process), names, 1e-9)
    first, second = (read(two, process)[0] for process in (0, 1))
    assert all((first[name] == second[name]).all() for name in first)
    assert read(two)[1]["mesh/adam"]["mesh"][0].startswith("on 4 devices of 2 processes: rows")
    # Written once: each file has a random name, and two writers would leave more of them.
    assert len(list((two / "saved-mesh").iterdir())) == 2
    assert ritz.load(two / "saved-mesh").info["steps"] == 500
    assert sorted(f.name for f in (two / "run-4").iterdir()) == ["fit.npz", "run-0.npz"]


def model(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_a_mesh_of_one_device_is_told_and_changes_nothing():
    y = np.arange(6.0)
    plain = ritz.fit(model, (y,), steps=50)
    fit = ritz.fit(model, (y,), steps=50, mesh=jax.devices()[:1])
    np.testing.assert_allclose(fit.q.loc, plain.q.loc, rtol=1e-6)
    assert fit.explain().splitlines()[-2:] == fit.info["mesh"]
    assert fit.info["mesh"] == ["on 1 device: nothing is split", "y (6): whole on each device"]
    assert "mesh" not in plain.info


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        (10_000, "mesh=10000 arrived, but JAX sees"),
        (0, "mesh: 0 arrived, expected a jax.sharding.Mesh"),
        (True, "expected a jax.sharding.Mesh"),
        ("all", "mesh: 'all' arrived"),
        ([], "mesh: a list arrived"),
        ([1, 2], "mesh: a list arrived"),
        (2 * jax.devices()[:1], "mesh names a device twice"),
    ],
)
def test_what_is_no_mesh_is_refused(mesh, words):
    with pytest.raises(ritz.RitzError, match=words):
        ritz.fit(model, (np.zeros(3),), mesh=mesh)


def test_a_model_without_arrays_has_nothing_to_put_on_devices():
    with pytest.raises(ritz.RitzError, match="mesh: no array among the arguments of model"):
        ritz.fit(model, (1.5,), mesh=1)


def test_a_fit_that_starts_from_one_on_a_mesh_is_on_none():
    first = ritz.fit(model, (np.arange(6.0),), mesh=1)
    assert _mesh.mesh_of(first.target) is not None
    second = ritz.fit(model, (np.arange(6.0),), init=first)
    assert _mesh.mesh_of((second.q, second.target)) is None


def test_a_mesh_of_any_shape_is_a_row_of_devices():
    mesh = jax.make_mesh((1, 1), ("a", "b"), devices=jax.devices()[:1])
    assert _mesh.as_mesh(mesh).axis_names == (_mesh.AXIS,)


def test_a_batch_that_does_not_divide_is_told():
    rows = {"y": np.zeros(64)}
    mesh = _mesh.Mesh(np.array(jax.devices()[:1] * 2), (_mesh.AXIS,))
    assert _mesh.told(rows, mesh, 8) == [
        "on 2 devices: rows of data are split",
        "y (64): 32 rows on each device",
    ]
    last = "batches of 7 rows: whole on each device, as 2 does not divide them"
    assert _mesh.told(rows, mesh, 7)[-1] == last
