"""Named data sets, from installed packages and from the folder that RITZ_DATA names."""

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from ritz._errors import RitzError, suggest
from ritz.data._read import read
from ritz.data._table import Table

_SKLEARN = {
    "breast_cancer": "569 tumours, 30 features, malignant (0) or benign (1)",
    "diabetes": "442 patients, 10 scaled features, progression after a year",
    "digits": "1797 handwritten digits, 8 x 8 pixels",
    "iris": "150 flowers, 4 measurements, 3 species",
    "wine": "178 wines, 13 measurements, 3 cultivars",
}
_STATSMODELS = {
    "anes96": "US election study 1996, 944 voters",
    "cancer": "breast cancer counts and population, 301 US counties",
    "ccard": "credit card spending, 72 people",
    "china_smoking": "smoking and lung cancer in 8 Chinese cities",
    "co2": "weekly CO2 at Mauna Loa 1958-2001, 59 weeks missing (nan)",
    "committee": "bills assigned to 20 US House committees",
    "copper": "world copper market 1951-1975",
    "cpunish": "executions in 17 US states, 1997",
    "elnino": "monthly sea surface temperature 1950-2010",
    "engel": "income and food expenditure, 235 households",
    "fair": "extramarital affairs, 6366 women",
    "fertility": "births per woman in 219 countries and regions 1960-2013, many missing (nan)",
    "grunfeld": "investment of 11 firms 1935-1954",
    "heart": "survival after 69 heart transplants",
    "longley": "US employment 1947-1962, 6 collinear regressors",
    "macrodata": "US macroeconomic quarters 1959-2009",
    "modechoice": "travel mode choice, 210 travellers by 4 modes",
    "nile": "annual flow of the Nile at Aswan 1871-1970",
    "randhie": "doctor visits in the RAND health insurance experiment, 20190 person-years",
    "scotland": "1997 devolution vote in 32 council districts",
    "spector": "grades of 32 students, effect of a teaching method",
    "stackloss": "ammonia loss of a plant over 21 days",
    "star98": "maths results of 303 Californian school districts",
    "statecrime": "crime in 50 US states and the District of Columbia",
    "strikes": "duration of 62 strikes",
    "sunspots": "annual sunspot numbers 1700-2008",
}
_MATPLOTLIB = {"goog": "daily prices of Google shares 2004-2008, 1047 days"}
_UCI = "UCI repository, CC BY 4.0"
_FOLDER = {
    "mnist10k": "MNIST test images, 10000 x 28 x 28, CC BY-SA 3.0",
    "uci/boston": f"house prices, 506 x 13, {_UCI}",
    "uci/concrete": f"strength of concrete, 1030 x 8, {_UCI}",
    "uci/energy": f"heating of buildings, 768 x 8, {_UCI}",
    "uci/kin8nm": f"kinematics of a robot arm, 8192 x 8, {_UCI}",
    "uci/naval": f"decay of a ship's gas turbine, 11934 x 16, {_UCI}",
    "uci/power": f"output of a power plant, 9568 x 4, {_UCI}",
    "uci/protein": f"tertiary structure of proteins, 45730 x 9, {_UCI}",
    "uci/wine": f"quality of red wine, 1599 x 11, {_UCI}",
    "uci/yacht": f"resistance of yachts, 308 x 6, {_UCI}",
    "graphs/cora": "citation graph, 2708 papers, Planetoid",
    "graphs/citeseer": "citation graph, 3327 papers, Planetoid",
}
_SUFFIXES = (".json", ".npz", ".csv", ".nc")


def names() -> dict[str, str]:
    """List the named data sets and where each comes from.

    Returns:
        name -> source, one line each: the sets that packages ship, those that Ritz expects in the
        folder RITZ_DATA, and whatever else that folder holds. Nothing is loaded.

    >>> names()["nile"]
    'statsmodels: annual flow of the Nile at Aswan 1871-1970'
    """
    found: dict[str, str] = {}
    for package, sets in (
        ("scikit-learn", _SKLEARN),
        ("statsmodels", _STATSMODELS),
        ("Matplotlib", _MATPLOTLIB),
        ("folder RITZ_DATA", _FOLDER),
    ):
        found |= {name: f"{package}: {text}" for name, text in sets.items()}
    root = _root()
    if root is not None:
        files = [*root.glob("*"), *root.glob("*/*")]
        for file in sorted(file for file in files if file.suffix in _SUFFIXES):
            name = file.relative_to(root).with_suffix("").as_posix()
            kind = "data and reference draws, posteriordb" if "posteriordb/" in name else file.name
            found.setdefault(name, f"folder RITZ_DATA: {kind}")
    return found


def load(name: str) -> dict[str, np.ndarray]:
    """Load a named data set. Nothing is ever downloaded.

    Args:
        name: a name that `names()` lists, or any file in the folder RITZ_DATA without its suffix,
            such as "uci/boston".

    Returns:
        arrays by name. Sets of scikit-learn have `x`, `y` and `feature_names`; sets of
        statsmodels have one array a column, whole numbers as integers; a set of posteriordb has
        its data and, as `draws` (chain, draw, parameter) and `draw_names`, its reference.

    Raises:
        RitzError: if the name is unknown, or its package or folder is absent.

    >>> load("nile")["volume"][:3]
    array([1120, 1160,  963])
    """
    if name in _SKLEARN:
        return _from_sklearn(name)
    if name in _STATSMODELS:
        return _from_statsmodels(name)
    if name in _MATPLOTLIB:
        return _from_matplotlib(name)
    return _from_folder(name)


def _from_sklearn(name: str) -> dict[str, np.ndarray]:
    datasets = _package("sklearn.datasets", "scikit-learn", name)
    bunch = getattr(datasets, f"load_{name}")()
    return {
        "x": np.asarray(bunch.data),
        "y": np.asarray(bunch.target),
        "feature_names": np.asarray(bunch.feature_names),
    }


def _from_statsmodels(name: str) -> dict[str, np.ndarray]:
    frame = _package(f"statsmodels.datasets.{name}", "statsmodels", name).load_pandas().data
    columns: dict[str, np.ndarray] = {}
    if name == "co2":
        day = np.asarray(frame.index.to_numpy(), dtype="datetime64[D]")
        start = day.astype("datetime64[Y]")
        following = start + np.timedelta64(1, "Y")
        length = following.astype("datetime64[D]") - start.astype("datetime64[D]")
        columns["year"] = 1970 + start.astype(int) + (day - start) / length
    elif frame.index.dtype.kind not in "iu":  # the names of states and cities
        columns[str(frame.index.name or "name")] = np.asarray(frame.index.astype(str), np.str_)
    for column in frame.columns:
        values = frame[column].to_numpy()
        if values.dtype.kind == "f":
            # statsmodels reads counts, codes and years as floats.
            whole = np.isfinite(values).all() and (values == np.round(values)).all()
            columns[str(column)] = values.astype(np.int64) if whole else values
        else:
            columns[str(column)] = values if values.dtype.kind in "iu" else values.astype(np.str_)
    return columns


def _from_matplotlib(name: str) -> dict[str, np.ndarray]:
    matplotlib = _package("matplotlib", "Matplotlib", name)
    file = Path(matplotlib.get_data_path(), "sample_data", f"{name}.npz")
    if not file.exists():
        raise RitzError(
            f"{name!r} comes with Matplotlib, but this installation of it left its sample data "
            "out; install it with pip install --force-reinstall matplotlib"
        )
    content = read(file)
    assert isinstance(content, dict)
    record = content["price_data"]
    days = (record["date"] - record["date"][0]).astype(np.int64)
    prices = {key: record[key] for key in ("open", "high", "low", "close", "volume")}
    return {"day": days, **prices}


def _from_folder(name: str) -> dict[str, np.ndarray]:
    root = _root()
    if root is None:
        if name in _FOLDER or name.startswith(("uci/", "graphs/", "posteriordb/")):
            about = f" ({_FOLDER[name]})" if name in _FOLDER else ""
            raise RitzError(
                f"data set {name!r}{about} is not in a package: set the environment variable "
                f"RITZ_DATA to the folder that holds {name}.npz or .json"
            )
        raise RitzError(f"there is no data set {name!r}; {suggest(name, names())}")
    stem = root / name
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    files = [root / f"{name}{suffix}" for suffix in _SUFFIXES] if inside and name else []
    files = [file for file in files if file.is_file()]
    if not files:
        if name in _FOLDER:
            raise RitzError(
                f"data set {name!r} ({_FOLDER[name]}) is not in RITZ_DATA ({root}); put "
                f"{stem.name}.npz into {stem.parent}"
            )
        raise RitzError(
            f"there is no data set {name!r}, in a package or in RITZ_DATA ({root}); "
            f"{suggest(name, names())}"
        )
    result: dict[str, np.ndarray] = {}
    for file in files:
        content = read(file)
        arrays = content.columns if isinstance(content, Table) else content
        if len(files) > 1 and set(arrays) == {"names", "draws"}:
            arrays = {"draws": arrays["draws"], "draw_names": arrays["names"]}
        result |= {key: value for key, value in arrays.items() if key not in result}
    return result


def _root() -> Path | None:
    folder = os.environ.get("RITZ_DATA")
    if not folder:
        return None
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise RitzError(
            f"RITZ_DATA is {folder!r}, which is not a folder; set it to one or unset it"
        )
    return root


def _package(module: str, package: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RitzError(
            f"data set {name!r} comes with {package}, which cannot be imported ({error}); install "
            f"it with pip install {package.lower()}"
        ) from error
