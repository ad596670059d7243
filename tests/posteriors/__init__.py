"""posteriordb posteriors: NumPyro models, data and reference moments (see the README beside).

``POSTERIORS[name]`` holds a model and says how to feed it; ``flatten`` and ``unflatten`` convert
between sites and the reference's parameter vector: a site ``beta`` of shape (4,) is ``beta[1]``
to ``beta[4]``, a scalar site has its own name.
"""

import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from . import models
from .densities import gp_factor

_HERE = Path(__file__).parent
Sites = dict[str, np.ndarray]


def _same(values: Sites, raw: Mapping[str, Any]) -> Sites:
    return values


@dataclass(frozen=True)
class Posterior:
    """One posterior.

    ``sites`` are in the order of the reference names and may be deterministic; ``latent`` turns
    their values (with the raw data) into those of the sampled sites.
    """

    name: str
    model: Callable[..., None]
    sites: tuple[str, ...]
    latent: Callable[[Sites, Mapping[str, Any]], Sites] = _same

    def data(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The model's keyword arguments: the fields of the raw JSON that it names."""
        parameters = inspect.signature(self.model).parameters.values()
        wanted = [p.name for p in parameters if p.default is inspect.Parameter.empty]
        return {n: np.asarray(raw[n]) if isinstance(raw[n], list) else raw[n] for n in wanted}


def _eight_schools_latent(values: Sites, raw: Mapping[str, Any]) -> Sites:
    mu, tau = values["mu"], values["tau"]
    return {"mu": mu, "tau": tau, "eta": (values["theta"] - mu) / tau}


def _gp_latent(values: Sites, raw: Mapping[str, Any]) -> Sites:
    rho, alpha = values["rho"], values["alpha"]
    factor = gp_factor(float(rho), float(alpha), np.asarray(raw["x"], dtype=np.float64))
    return {"rho": rho, "alpha": alpha, "f_tilde": np.linalg.solve(factor, values["f"])}


def _hmm_latent(values: Sites, raw: Mapping[str, Any]) -> Sites:
    """Rows sum to 1 again after the reference's rounding to float32."""
    rows = {key: values[key] / values[key].sum() for key in ("theta1", "theta2")}
    return {**rows, "mu": values["mu"]}


_REGRESSION = ("beta", "sigma")
POSTERIORS: dict[str, Posterior] = {
    p.name: p
    for p in (
        Posterior("arK-arK", models.ark, ("alpha", "beta", "sigma")),
        Posterior("earnings-log10earn_height", models.log10earn_height, _REGRESSION),
        Posterior("earnings-logearn_interaction", models.logearn_interaction, _REGRESSION),
        Posterior(
            "eight_schools-eight_schools_noncentered",
            models.eight_schools,
            ("theta", "mu", "tau"),
            _eight_schools_latent,
        ),
        Posterior("garch-garch11", models.garch11, ("mu", "alpha0", "alpha1", "beta1")),
        Posterior(
            "gp_pois_regr-gp_pois_regr", models.gp_pois_regr, ("rho", "alpha", "f"), _gp_latent
        ),
        Posterior(
            "hmm_example-hmm_example", models.hmm_example, ("theta1", "theta2", "mu"), _hmm_latent
        ),
        Posterior(
            "hudson_lynx_hare-lotka_volterra", models.lotka_volterra, ("theta", "z_init", "sigma")
        ),
        Posterior("kidiq-kidscore_interaction", models.kidscore_interaction, _REGRESSION),
        Posterior("kidiq-kidscore_momiq", models.kidscore_momiq, _REGRESSION),
        Posterior(
            "kidiq_with_mom_work-kidscore_interaction_c",
            models.kidscore_interaction_c,
            _REGRESSION,
        ),
        Posterior("kilpisjarvi_mod-kilpisjarvi", models.kilpisjarvi, ("alpha", "beta", "sigma")),
        Posterior(
            "low_dim_gauss_mix-low_dim_gauss_mix",
            models.low_dim_gauss_mix,
            ("mu", "sigma", "theta"),
        ),
        Posterior("mesquite-logmesquite_logvash", models.logmesquite_logvash, _REGRESSION),
        Posterior("nes1976-nes", models.nes, _REGRESSION),
        Posterior("nes2000-nes", models.nes, _REGRESSION),
        Posterior(
            "one_comp_mm_elim_abs-one_comp_mm_elim_abs",
            models.one_comp_mm_elim_abs,
            ("k_a", "K_m", "V_m", "sigma"),
        ),
        Posterior("sblrc-blr", models.blr, _REGRESSION),
    )
}


def _shared(file: str) -> Path:
    """A file of the shared data folder."""
    root = os.environ.get("RITZ_DATA")
    if not root:
        raise FileNotFoundError(f"posteriordb/{file} is not committed and RITZ_DATA is not set")
    path = Path(root) / "posteriordb" / file
    if not path.is_file():
        raise FileNotFoundError(f"posteriordb/{file} is not under RITZ_DATA")
    return path


def load_data(name: str) -> dict[str, Any]:
    """Raw JSON data: the committed copy, or else the file under RITZ_DATA."""
    committed = _HERE / "data" / f"{POSTERIORS[name].name.split('-')[0]}.json"
    path = committed if committed.is_file() else _shared(f"{name}.json")
    return json.loads(path.read_text(encoding="utf-8"))


def load_draws(name: str) -> tuple[list[str], np.ndarray]:
    """Names and all reference draws (chain, draw, parameter), from RITZ_DATA."""
    with np.load(_shared(f"{POSTERIORS[name].name}.npz")) as stored:
        return [str(n) for n in stored["names"]], stored["draws"].astype(np.float64)


@cache
def _references() -> dict[str, Any]:
    return json.loads((_HERE / "reference.json").read_text(encoding="utf-8"))["posteriors"]


def reference(name: str) -> dict[str, Any]:
    """Committed moments: ``names``, and arrays ``mean``, ``sd``, ``mcse_mean``, ``mcse_sd``,
    ``ess``, ``q5``, ``q50``, ``q95``, and 20 of the ``draws``."""
    entry = _references()[name]
    return {key: list(v) if key == "names" else np.array(v) for key, v in entry.items()}


def unflatten(name: str, vector: np.ndarray) -> Sites:
    """Values of ``sites`` from one vector in the reference's order."""
    groups: dict[str, list[float]] = {}
    scalars = set()
    for label, value in zip(reference(name)["names"], vector, strict=True):
        site = label.partition("[")[0]
        groups.setdefault(site, []).append(value)
        if site == label:
            scalars.add(site)
    return {s: np.array(v[0] if s in scalars else v) for s, v in groups.items()}


def flatten(name: str, samples: Mapping[str, Any], batch_ndim: int = 2) -> np.ndarray:
    """Array (..., parameter) in the reference's order from samples with ``batch_ndim`` axes."""
    arrays = [np.asarray(samples[site]) for site in POSTERIORS[name].sites]
    return np.concatenate([a.reshape(*a.shape[:batch_ndim], -1) for a in arrays], axis=-1)
