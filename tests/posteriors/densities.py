"""The same posteriors as plain NumPy log densities, to check the NumPyro models against.

Each function takes the sampled sites' values and the raw JSON data, and returns the log density
up to a constant, in float64.  They are written from the table in the README without NumPyro or
JAX, and on purpose by other routes than the models: a centred density for eight schools, a
scaled forward recursion for the Markov model, adaptive solvers for the differential equations.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import gammaln
from scipy.stats import norm

Values = Mapping[str, np.ndarray]
Raw = Mapping[str, Any]


def _array(raw: Raw, *names: str) -> list[np.ndarray]:
    return [np.asarray(raw[name], dtype=np.float64) for name in names]


def _cauchy(x: Any, scale: float) -> float:
    return float(-np.log1p((x / scale) ** 2).sum())


def _normal(x: Any, loc: Any, scale: Any) -> float:
    return float(norm.logpdf(x, loc, scale).sum())


def _ark(v: Values, raw: Raw) -> float:
    (y,) = _array(raw, "y")
    total = _normal(v["alpha"], 0, 10) + _normal(v["beta"], 0, 10) + _cauchy(v["sigma"], 2.5)
    for t in range(raw["K"], raw["T"]):
        mean = v["alpha"] + sum(v["beta"][k] * y[t - k - 1] for k in range(raw["K"]))
        total += _normal(y[t], mean, v["sigma"])
    return total


def _log10earn_height(v: Values, raw: Raw) -> float:
    earn, height = _array(raw, "earn", "height")
    b = v["beta"]
    return _normal(np.log10(earn), b[0] + b[1] * height, v["sigma"])


def _logearn_interaction(v: Values, raw: Raw) -> float:
    earn, height, male = _array(raw, "earn", "height", "male")
    b = v["beta"]
    mean = b[0] + b[1] * height + b[2] * male + b[3] * height * male
    return _normal(np.log(earn), mean, v["sigma"])


def _eight_schools(v: Values, raw: Raw) -> float:
    y, s = _array(raw, "y", "sigma")
    mu, tau = v["mu"], v["tau"]
    theta = mu + tau * v["eta"]
    centred = _normal(y, theta, s) + _normal(theta, mu, tau) + _normal(mu, 0, 5) + _cauchy(tau, 5)
    return centred + len(y) * float(np.log(tau))  # density of eta, not of theta


def _garch11(v: Values, raw: Raw) -> float:
    (y,) = _array(raw, "y")
    scale = float(raw["sigma1"])
    total = 0.0
    for t in range(len(y)):
        if t:
            variance = v["alpha0"] + v["alpha1"] * (y[t - 1] - v["mu"]) ** 2
            scale = np.sqrt(variance + v["beta1"] * scale**2)
        total += _normal(y[t], v["mu"], scale)
    return total


def gp_factor(rho: float, alpha: float, x: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor of the covariance of ``gp_pois_regr``."""
    square = np.subtract.outer(x, x) ** 2
    return np.linalg.cholesky(
        alpha**2 * np.exp(-square / (2 * rho**2)) + 1e-10 * np.identity(len(x))
    )


def _gp_pois_regr(v: Values, raw: Raw) -> float:
    x, k = _array(raw, "x", "k")
    rho, alpha = v["rho"], v["alpha"]
    f = gp_factor(float(rho), float(alpha), x) @ v["f_tilde"]
    prior = 24 * np.log(rho) - 4 * rho + _normal(alpha, 0, 2) + _normal(v["f_tilde"], 0, 1)
    return float(prior + np.sum(k * f - np.exp(f) - gammaln(k + 1)))


def _hmm_example(v: Values, raw: Raw) -> float:
    (y,) = _array(raw, "y")
    rows = np.array([v["theta1"], v["theta2"]])
    weight, total = np.ones(2), _normal(v["mu"], [3, 10], 1)
    for t in range(len(y)):
        weight = (weight @ rows if t else weight) * norm.pdf(y[t], v["mu"], 1)
        total += np.log(weight.sum())
        weight = weight / weight.sum()
    return float(total)


def _lotka_volterra(v: Values, raw: Raw) -> float:
    ts, y_init, y = _array(raw, "ts", "y_init", "y")
    a, b, c, d = theta = v["theta"]
    z_init, sigma = v["z_init"], v["sigma"]
    solved = solve_ivp(
        lambda _, z: [(a - b * z[1]) * z[0], (d * z[0] - c) * z[1]],
        (0, ts[-1]),
        z_init,
        "DOP853",
        ts,
        rtol=1e-12,
        atol=1e-12,
    )
    total = _normal(theta, [1, 0.05, 1, 0.05], [0.5, 0.05, 0.5, 0.05])
    total += _normal(np.log(sigma), -1, 1) - np.log(sigma).sum()
    total += _normal(np.log(z_init), np.log(10), 1) - np.log(z_init).sum()
    total += _normal(np.log(y_init), np.log(z_init), sigma)
    return float(total + _normal(np.log(y), np.log(solved.y.T), sigma))


def _kidscore_momiq(v: Values, raw: Raw) -> float:
    score, iq = _array(raw, "kid_score", "mom_iq")
    b = v["beta"]
    return _normal(score, b[0] + b[1] * iq, v["sigma"]) + _cauchy(v["sigma"], 2.5)


def _interaction(v: Values, raw: Raw, *, centre: bool) -> float:
    score, hs, iq = _array(raw, "kid_score", "mom_hs", "mom_iq")
    if centre:
        hs, iq = hs - np.mean(hs), iq - np.mean(iq)
    b = v["beta"]
    return _normal(score, b[0] + b[1] * hs + b[2] * iq + b[3] * hs * iq, v["sigma"])


def _kidscore_interaction(v: Values, raw: Raw) -> float:
    return _interaction(v, raw, centre=False) + _cauchy(v["sigma"], 2.5)


def _kidscore_interaction_c(v: Values, raw: Raw) -> float:
    return _interaction(v, raw, centre=True)


def _kilpisjarvi(v: Values, raw: Raw) -> float:
    x, y = _array(raw, "x", "y")
    prior = _normal(v["alpha"], raw["pmualpha"], raw["psalpha"])
    prior += _normal(v["beta"], raw["pmubeta"], raw["psbeta"])
    return prior + _normal(y, v["alpha"] + v["beta"] * x, v["sigma"])


def _low_dim_gauss_mix(v: Values, raw: Raw) -> float:
    (y,) = _array(raw, "y")
    mu, sigma, theta = v["mu"], v["sigma"], v["theta"]
    prior = _normal(mu, 0, 2) + _normal(sigma, 0, 2) + 4 * np.log(theta) + 4 * np.log(1 - theta)
    first, second = norm.pdf(y, mu[0], sigma[0]), norm.pdf(y, mu[1], sigma[1])
    return float(prior + np.log(theta * first + (1 - theta) * second).sum())


def _logmesquite_logvash(v: Values, raw: Raw) -> float:
    weight, d1, d2 = _array(raw, "weight", "diam1", "diam2")
    canopy, total, group = _array(raw, "canopy_height", "total_height", "group")
    b = v["beta"]
    mean = b[0] + b[1] * np.log(d1 * d2 * canopy) + b[2] * np.log(d1 * d2)
    mean += b[3] * np.log(d1 / d2) + b[4] * np.log(total) + b[5] * group
    return _normal(np.log(weight), mean, v["sigma"])


def _nes(v: Values, raw: Raw) -> float:
    party, ideology, race, age = _array(raw, "partyid7", "real_ideo", "race_adj", "age_discrete")
    educ, gender, income = _array(raw, "educ1", "gender", "income")
    b = v["beta"]
    by_age = np.array([np.nan, 0.0, b[3], b[4], b[5]])[age.astype(int)]
    mean = b[0] + b[1] * ideology + b[2] * race + by_age
    mean += b[6] * educ + b[7] * gender + b[8] * income
    return _normal(party, mean, v["sigma"])


def _one_comp_mm_elim_abs(v: Values, raw: Raw) -> float:
    times, c_hat = _array(raw, "times", "C_hat")
    k_a, K_m, V_m, sigma = (float(v[name]) for name in ("k_a", "K_m", "V_m", "sigma"))
    dose, volume = raw["D"], raw["V"]
    solved = solve_ivp(
        lambda t, c: k_a * dose / volume * np.exp(-k_a * t) - V_m / volume * c / (K_m + c),
        (raw["t0"], times[-1]),
        [0.0],
        "DOP853",
        times,
        rtol=1e-12,
        atol=1e-13,
        first_step=1e-7,
    )
    prior = sum(_cauchy(value, 1) for value in (k_a, K_m, V_m, sigma))
    return prior + _normal(np.log(c_hat), np.log(solved.y[0]), sigma)


def _blr(v: Values, raw: Raw) -> float:
    X, y = _array(raw, "X", "y")
    prior = _normal(v["beta"], 0, 10) + _normal(v["sigma"], 0, 10)
    return prior + _normal(y, X @ v["beta"], v["sigma"])


DENSITIES: dict[str, Callable[[Values, Raw], float]] = {
    "arK-arK": _ark,
    "earnings-log10earn_height": _log10earn_height,
    "earnings-logearn_interaction": _logearn_interaction,
    "eight_schools-eight_schools_noncentered": _eight_schools,
    "garch-garch11": _garch11,
    "gp_pois_regr-gp_pois_regr": _gp_pois_regr,
    "hmm_example-hmm_example": _hmm_example,
    "hudson_lynx_hare-lotka_volterra": _lotka_volterra,
    "kidiq-kidscore_interaction": _kidscore_interaction,
    "kidiq-kidscore_momiq": _kidscore_momiq,
    "kidiq_with_mom_work-kidscore_interaction_c": _kidscore_interaction_c,
    "kilpisjarvi_mod-kilpisjarvi": _kilpisjarvi,
    "low_dim_gauss_mix-low_dim_gauss_mix": _low_dim_gauss_mix,
    "mesquite-logmesquite_logvash": _logmesquite_logvash,
    "nes1976-nes": _nes,
    "nes2000-nes": _nes,
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": _one_comp_mm_elim_abs,
    "sblrc-blr": _blr,
}
