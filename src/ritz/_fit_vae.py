"""`ritz fit-vae`: an autoencoder of a table or of an array in a file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ritz._command import Debug


def fit_vae(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="CSV, JSON or NPZ: columns, or an array of rows.")
    ],
    latent: Annotated[
        str, typer.Option(help="Latent dimensions; 16,4 for a hierarchy of two levels.")
    ] = "8",
    array: Annotated[
        str | None, typer.Option(help="Which array of the file; by default x.")
    ] = None,
    likelihood: Annotated[
        str,
        typer.Option(help="gaussian, bernoulli, continuous_bernoulli, poisson or multinomial."),
    ] = "gaussian",
    hidden: Annotated[str, typer.Option(help="Widths of the networks' hidden layers.")] = "256,256",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the rows, at most; 100, or 3,000 steps.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Rows of a step, at most.")] = 128,
    lr: Annotated[float, typer.Option(help="Adam's rate at first.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bits.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the model, and latents.csv, a row a row.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Train a variational autoencoder on rows, and say what its latents hold.

    A tenth of the rows is kept aside, and tells when to end.
    """
    import numpy as np

    from ritz._errors import RitzError
    from ritz.latent import VAE, mlp
    from ritz.latent._assembled import rows_of

    laws = _laws()
    if likelihood not in laws:
        from ritz._errors import suggest

        raise RitzError(f"no likelihood {likelihood!r}; {suggest(likelihood, laws)}")
    if out is not None and out.is_file():
        raise RitzError(f"--out {out} is a file; name a directory")
    widths, levels = _numbers("hidden", hidden), _numbers("latent", latent)
    rows = rows_of(_rows(data, array))
    network = mlp(*widths)
    vae = VAE(
        levels[0] if len(levels) == 1 else levels,
        likelihood=laws[likelihood](),
        encoder=network,
        decoder=network,
        epochs=epochs,
        batch=min(batch, max(1, int(0.9 * len(rows)))),
        lr=lr,
        seed=seed,
    ).fit(rows)
    typer.echo(f"{len(rows):,} rows of shape {rows.shape[1:]}: {vae.fit_.status}")
    typer.echo(str(vae.diagnose()))
    for line in vae.fit_.reasons:
        if line not in vae.diagnose().doubts:
            typer.echo(f"- {line}")
    if out is not None:
        path = vae.save(out / "vae.ritz")
        z = vae.encode(rows)
        names = ",".join(f"z{i}" for i in range(z.shape[1]))
        np.savetxt(out / "latents.csv", z, delimiter=",", header=names, comments="")
        typer.echo(f"saved {path} and {out / 'latents.csv'}")
    if vae.fit_.status == "failed":
        raise typer.Exit(3)


def _laws() -> dict[str, Any]:
    from ritz import latent

    names = ("gaussian", "bernoulli", "continuous_bernoulli", "poisson", "multinomial")
    return {name: getattr(latent, name) for name in names}


def _numbers(name: str, given: str) -> tuple[int, ...]:
    from ritz._errors import RitzError

    words = [word.strip() for word in given.split(",")]
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise RitzError(f"--{name} {given!r} arrived, expected whole numbers such as 256,256")
    return tuple(map(int, words))


def _rows(path: Path, name: str | None) -> Any:
    """The table of a file, or one of its arrays."""
    import ritz
    from ritz._errors import RitzError, listed, suggest

    found = ritz.data.read(path)
    if not isinstance(found, dict):
        if name is not None:
            raise RitzError(f"{path.name} is a table; --array is for NPZ and JSON")
        return found
    if name is None:
        name = "x" if "x" in found else next(iter(found))
        if len(found) > 1 and name != "x":
            raise RitzError(f"{path.name} holds {listed(found)}; choose one with --array")
    if name not in found:
        raise RitzError(f"{path.name} has no array {name!r}; {suggest(name, found)}")
    return found[name]
