"""Seconds an epoch and compile time of an autoencoder, against a hand-written scan and PyTorch.

MNIST (`mnist10k`, folder RITZ_DATA), bits, 8,000 images to train on; 784-400-20-400-784, batch 128,
Adam at a constant rate in the peers, in Ritz along a half cosine whose mean is that rate. The
hand-written program is one `lax.scan` over an epoch's batches, compiled once. PyTorch is eager, and
pythae is its own trainer, where they are installed. Bounds are of test images, 16 draws, after as
many epochs. Each runs in a process of its own, in turn, `--repeats` times; medians. Writes
vae.json.

    python bench/vae.py [--epochs 10] [--repeats 3] [--out bench/results/vae.json]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, LATENT, BATCH, RATE, TRAIN = 400, 20, 128, 1e-3, 8000
OUT = Path(__file__).resolve().parent / "results" / "vae.json"


def images() -> tuple[np.ndarray, np.ndarray]:
    import ritz

    grey = np.asarray(ritz.data.load("mnist10k")["images"], np.float32).reshape(10_000, -1) / 255.0
    bits = (np.random.default_rng(0).uniform(size=grey.shape) < grey).astype(np.float32)
    return bits[:TRAIN], bits[TRAIN:]


def of_ritz(epochs: int) -> dict[str, float]:
    from ritz.latent import VAE, bernoulli, mlp

    train, test = images()
    vae = VAE(
        LATENT,
        likelihood=bernoulli(),
        encoder=mlp(HIDDEN),
        decoder=mlp(HIDDEN),
        epochs=epochs,
        batch=BATCH,
        lr=2.0 * RATE,
        validation=0.0,
        progress=False,
    ).fit(train)
    info = vae.fit_.info
    return {
        "epoch": info["run_seconds"] / epochs,
        "compile": info["compile_seconds"],
        "bound": vae.diagnose(test).elbo,
    }


def of_scan(epochs: int) -> dict[str, float]:
    import jax
    import jax.numpy as jnp
    import optax

    train, test = (jnp.asarray(v) for v in images())
    sizes = [(784, HIDDEN), (HIDDEN, 2 * LATENT), (LATENT, HIDDEN), (HIDDEN, 784)]
    keys = jax.random.split(jax.random.key(0), len(sizes))
    params = [
        (jax.random.uniform(k, (a, b), minval=-1.0, maxval=1.0) / a**0.5, jnp.zeros(b))
        for k, (a, b) in zip(keys, sizes, strict=True)
    ]

    def bound(params: Any, x: Any, key: Any) -> Any:
        layer = lambda i, h: h @ params[i][0] + params[i][1]
        mean, log_sd = jnp.split(layer(1, jax.nn.gelu(layer(0, x))), 2, axis=1)
        z = mean + jnp.exp(log_sd) * jax.random.normal(key, mean.shape)
        logits = layer(3, jax.nn.gelu(layer(2, z)))
        fit = (x * logits - jax.nn.softplus(logits)).sum(axis=1)
        kl = (0.5 * (jnp.exp(2 * log_sd) + mean**2 - 1.0) - log_sd).sum(axis=1)
        return (fit - kl).mean()

    adam = optax.adam(RATE)

    def epoch(state: Any, key: Any) -> Any:
        order, draws = jax.random.split(key)
        n = TRAIN // BATCH
        rows = jax.random.permutation(order, TRAIN)[: n * BATCH].reshape(n, BATCH)

        def step(state: Any, at: Any) -> Any:
            params, opt = state
            which, key = at
            loss, grad = jax.value_and_grad(lambda p: -bound(p, train[which], key))(params)
            update, opt = adam.update(grad, opt)
            return (optax.apply_updates(params, update), opt), loss

        return jax.lax.scan(step, state, (rows, jax.random.split(draws, n)))

    state, keys = (params, adam.init(params)), jax.random.split(jax.random.key(1), epochs)
    began = time.perf_counter()
    program = jax.jit(epoch).lower(state, keys[0]).compile()
    compiled = time.perf_counter() - began
    began = time.perf_counter()
    for key in keys:
        state, losses = program(state, key)
    losses.block_until_ready()
    seconds = time.perf_counter() - began
    judged = jax.jit(bound)
    many = [judged(state[0], test, k) for k in jax.random.split(jax.random.key(2), 16)]
    return {"epoch": seconds / epochs, "compile": compiled, "bound": float(np.mean(many))}


def of_torch(epochs: int) -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    train, test = (torch.tensor(v) for v in images())
    down = nn.Sequential(nn.Linear(784, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2 * LATENT))
    up = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 784))

    def bound(x: Any) -> Any:
        mean, log_sd = down(x).chunk(2, dim=1)
        logits = up(mean + log_sd.exp() * torch.randn_like(mean))
        fit = -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        kl = (0.5 * ((2 * log_sd).exp() + mean**2 - 1.0) - log_sd).sum(1)
        return (fit - kl).mean()

    adam = torch.optim.Adam([*down.parameters(), *up.parameters()], lr=RATE)
    began = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(TRAIN)[: TRAIN // BATCH * BATCH].split(BATCH):
            adam.zero_grad()
            (-bound(train[rows])).backward()
            adam.step()
    seconds = time.perf_counter() - began
    with torch.no_grad():
        found = float(np.mean([float(bound(test)) for _ in range(16)]))
    return {"epoch": seconds / epochs, "compile": 0.0, "bound": found}


def of_pythae(epochs: int) -> dict[str, float]:
    import tempfile

    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch import nn

    torch.manual_seed(0)
    train, test = (torch.tensor(v) for v in images())

    class Down(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Linear(784, HIDDEN), nn.GELU())
            self.mean, self.log_var = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

        def forward(self, x: Any) -> Any:
            h = self.hidden(x)
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))

    class Up(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 784))

        def forward(self, z: Any) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))

    config = VAEConfig(input_dim=(784,), latent_dim=LATENT, reconstruction_loss="bce")
    model = VAE(config, encoder=Down(), decoder=Up())
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=RATE,
            per_device_train_batch_size=BATCH,
            optimizer_cls="Adam",
            no_cuda=True,
        )
        from pythae.data.datasets import BaseDataset

        rows = BaseDataset(train, torch.zeros(len(train)))
        trainer = BaseTrainer(model=model, train_dataset=rows, training_config=settings)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    with torch.no_grad():
        rows = BaseDataset(test, torch.zeros(len(test)))
        many = [-float(model({"data": rows.data}).loss) for _ in range(16)]
    return {"epoch": seconds / epochs, "compile": 0.0, "bound": float(np.mean(many))}


WAYS = {"ritz": of_ritz, "scan": of_scan, "torch": of_torch, "pythae": of_pythae}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=WAYS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(WAYS[args.one](args.epochs)))
        return
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(args.repeats):
        for name in WAYS:
            command = [sys.executable, __file__, "--one", name, "--epochs", str(args.epochs)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
                continue
            rows[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    found = {
        name: {key: statistics.median(r[key] for r in some) for key in some[0]}
        for name, some in rows.items()
        if some
    }
    print(f"{'':10} {'s/epoch':>9} {'ritz /':>7} {'compile s':>9} {'bound':>9}")
    for name, row in found.items():
        share = found["ritz"]["epoch"] / row["epoch"]
        print(
            f"{name:10} {row['epoch']:9.3f} {share:7.2f} {row['compile']:9.2f} {row['bound']:9.2f}"
        )
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    text = {"epochs": args.epochs, "repeats": args.repeats, "machine": machine, "ways": found}
    args.out.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
