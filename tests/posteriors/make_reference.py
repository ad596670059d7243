"""Write reference.json from posteriordb's reference draws.

Run as ``RITZ_DATA=... python tests/posteriors/make_reference.py``.  For every ``NAME.npz`` in the
data folder's ``posteriordb`` it stores the moments and quantiles of the draws, the Monte Carlo
standard errors of means and standard deviations, and 20 draws spread over the chains, at which
the tests compare densities.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from numpyro.diagnostics import effective_sample_size

POINTS = 20
LICENCE = "BSD-3/CC BY 4.0"


def summary(draws: np.ndarray) -> dict[str, np.ndarray]:
    """Moments, their standard errors and quantiles of draws (chain, draw, parameter).

    The standard error of a standard deviation s follows from that of the mean of the squared
    deviations by the delta method: se(s) = se(s^2) / (2 s).
    """
    flat = draws.reshape(-1, draws.shape[-1])
    mean, sd = flat.mean(0), flat.std(0, ddof=1)
    squares = (draws - mean) ** 2
    ess, ess_squares = effective_sample_size(draws), effective_sample_size(squares)
    spread = squares.reshape(flat.shape).std(0, ddof=1)
    q5, q50, q95 = np.quantile(flat, [0.05, 0.5, 0.95], axis=0)
    return {
        "mean": mean,
        "sd": sd,
        "mcse_mean": sd / np.sqrt(ess),
        "mcse_sd": spread / np.sqrt(ess_squares) / (2 * sd),
        "ess": ess,
        "q5": q5,
        "q50": q50,
        "q95": q95,
    }


def entry(path: Path) -> str:
    """The JSON text of one posterior's entry, a vector a line."""
    with np.load(path) as stored:
        names, draws = [str(n) for n in stored["names"]], stored["draws"].astype(np.float64)
    chains, length, size = draws.shape
    per_chain = -(-POINTS // chains)
    at = (np.arange(per_chain) * length // per_chain) + length // (2 * per_chain)
    points = draws[:, at].reshape(-1, size)[:POINTS]
    lines = [f'      "names": {json.dumps(names)}']
    for key, values in summary(draws).items():
        lines.append(f'      "{key}": {_numbers(values, 8)}')
    rows = ",\n".join(f"        {_numbers(row, 9)}" for row in points)
    lines.append(f'      "draws": [\n{rows}\n      ]')
    return f'    "{path.stem}": {{\n' + ",\n".join(lines) + "\n    }"


def _numbers(values: np.ndarray, digits: int) -> str:
    return json.dumps([float(f"{v:.{digits}g}") for v in values])


def main() -> None:
    """Write ``reference.json`` beside this file."""
    if "RITZ_DATA" not in os.environ:
        sys.exit("set RITZ_DATA to the folder that holds posteriordb")
    paths = sorted((Path(os.environ["RITZ_DATA"]) / "posteriordb").glob("*.npz"))
    if not paths:
        sys.exit("no posteriordb/*.npz under RITZ_DATA")
    head = f'  "source": "posteriordb",\n  "licence": {json.dumps(LICENCE)},\n  "posteriors": '
    text = "{\n" + head + "{\n" + ",\n".join(entry(path) for path in paths) + "\n  }\n}\n"
    json.loads(text)
    Path(__file__).with_name("reference.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
