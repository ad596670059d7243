"""Read a file: CSV, JSON, NPZ or NetCDF, by its suffix."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ritz._errors import RitzError, listed, suggest
from ritz.data._csv import read_csv
from ritz.data._table import Table


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray] | Table:
    """Read a data file. Nothing in it is ever executed.

    Args:
        path: a `.csv` or `.tsv` file (a `Table`), `.json` (an object of numbers and arrays, as
            Stan reads), `.npz`, or `.nc` (NetCDF, ArviZ files included: their observed and
            constant data).

    Returns:
        a `Table` for CSV, otherwise arrays by name.

    Raises:
        RitzError: if the file is missing, empty, of another kind, or not what its suffix says.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "schools.json"
    >>> _ = path.write_text('{"y": [28, 8, -3]}')
    >>> read(path)
    {'y': array([28,  8, -3])}
    """
    file = Path(path).expanduser()
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        kind = f"a {file.suffix} file" if file.suffix else "a file without a suffix"
        raise RitzError(f"{file.name!r} is {kind}; Ritz reads {listed(_READERS)}")
    try:
        if file.is_dir():
            raise RitzError(f"{str(file)!r} is a folder; name a file in it")
        if not file.exists():
            near = [other.name for other in sorted(file.parent.glob(f"*{file.suffix}"))]
            hint = suggest(file.name, near) if near else "check the path"
            raise RitzError(f"there is no file {str(file)!r}; {hint}")
        if file.stat().st_size == 0:
            raise RitzError(f"{file.name} is empty")
        found = reader(file)
    except OSError as error:
        raise RitzError(f"{str(file)!r} cannot be read: {error}") from error
    if not found if isinstance(found, dict) else not found.columns:
        raise RitzError(f"{file.name} holds no data")
    return found


def _read_json(path: Path) -> dict[str, np.ndarray]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except RitzError as error:
        raise RitzError(f"{path.name}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise RitzError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise RitzError(
            f"{path.name} holds a {type(content).__name__}; expected an object that names its "
            'arrays, as {"y": [28, 8], "J": 2}'
        )
    return {name: _json_array(path, name, value) for name, value in content.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise RitzError(f"the name {name!r} occurs twice; rename one")
        result[name] = value
    return result


def _json_array(path: Path, name: str, value: Any) -> np.ndarray:
    label = f"{name!r} in {path.name}"
    if isinstance(value, dict):
        raise RitzError(f"{label} is an object; expected a number or an array of numbers")
    try:
        array = np.asarray(_null_to_nan(value))
    except ValueError as error:
        raise RitzError(f"{label} is ragged; its rows must be of one length") from error
    if array.dtype.kind == "O" or (array.dtype.kind == "U" and not _all_text(value)):
        raise RitzError(f"{label} mixes kinds of values; expected numbers only or text only")
    return array


def _null_to_nan(value: Any) -> Any:
    if isinstance(value, list):
        if all(entry is None or isinstance(entry, str) for entry in value) and value:
            return ["" if entry is None else entry for entry in value]
        return [_null_to_nan(entry) for entry in value]
    return np.nan if value is None else value


def _all_text(value: Any) -> bool:
    if isinstance(value, list):
        return all(entry is None or _all_text(entry) for entry in value)
    return isinstance(value, str)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise RitzError(f"{path.name} is one array (NPY); save it with numpy.savez(path, y=…)")
    try:
        # np.load leaves a file that it opened itself open when the content is bad.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib, pickle and NumPy each have their own
        reason = "it holds Python objects" if "pickle" in str(error) else str(error)
        raise RitzError(
            f"{path.name} is not an NPZ file of plain arrays ({reason}); write it with numpy.savez"
        ) from error


def _read_netcdf(path: Path) -> dict[str, np.ndarray]:
    import xarray

    magic = path.read_bytes()[:4]
    engine = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}.get(magic)
    if engine is None:
        raise RitzError(f"{path.name} is not a NetCDF file (it begins with {magic!r})")
    found: dict[str, np.ndarray] = {}
    try:
        names = _netcdf_groups(path) if engine == "h5netcdf" else []
        wanted = [name for name in ("observed_data", "constant_data") if name in names]
        for group in wanted or [None]:
            # Times stay the numbers they are stored as: a model cannot use dates.
            with xarray.open_dataset(path, group=group, engine=engine, decode_times=False) as data:
                variables = [*data.data_vars, *(c for c in data.coords if _is_data(str(c)))]
                found.update({str(name): np.asarray(data[name].values) for name in variables})
    except Exception as error:  # h5py, SciPy and xarray each have their own
        raise RitzError(f"{path.name} cannot be read as NetCDF: {error}") from error
    if not found and names:
        raise RitzError(
            f"{path.name} has the groups {listed(names)} but no observed_data or constant_data"
        )
    return found


def _netcdf_groups(path: Path) -> list[str]:
    import h5netcdf

    with h5netcdf.File(path, "r") as file:
        return list(file.groups)


def _is_data(coordinate: str) -> bool:
    # ArviZ numbers the axes it has no names for; those counters are no data.
    return "_dim_" not in coordinate


_READERS: dict[str, Any] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".json": _read_json,
    ".npz": _read_npz,
    ".nc": _read_netcdf,
}
