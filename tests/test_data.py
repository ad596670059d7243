"""ritz.data: named sets, files, binding to a model's arguments, and mini-batches."""

import contextlib
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ritz._errors import RitzError, suggest
from ritz.data import Table, batches, bind, load, names, read
from ritz.data._signature import signature_of


@contextlib.contextmanager
def refuses(*parts: str):
    """The error is one line that contains every part."""
    with pytest.raises(RitzError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for part in parts:
        assert part in message, message


# ---------------------------------------------------------------- errors


def test_an_error_is_one_line():
    assert str(RitzError("a\nb\r\nc")) == "a b c"
    assert isinstance(RitzError("a"), ValueError)


def test_suggest_finds_close_names_whatever_their_case():
    assert suggest("BOSTN", ["boston", "yacht"]) == "did you mean 'boston'?"
    assert suggest("zzz", [f"n{i}" for i in range(20)]).endswith("n7, …")
    assert suggest("zzz", []) == "there are none to choose from"


# ---------------------------------------------------------------- named sets


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "uci").mkdir()
    (tmp_path / "posteriordb").mkdir()
    np.savez(tmp_path / "uci" / "boston.npz", x=np.ones((5, 2)), y=np.arange(5.0))
    stem = tmp_path / "posteriordb" / "schools-eight"
    stem.with_suffix(".json").write_text(json.dumps({"J": 2, "y": [28, 8], "sigma": [15, 10]}))
    np.savez(stem.with_suffix(".npz"), names=np.array(["mu"]), draws=np.zeros((2, 3, 1)))
    (tmp_path / "mine.csv").write_text("a,b\n1,x\n2,y\n")
    monkeypatch.setenv("RITZ_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_folder(monkeypatch):
    monkeypatch.delenv("RITZ_DATA", raising=False)


def _shipped():
    packages = ("scikit-learn:", "statsmodels:", "Matplotlib:")
    return [name for name, text in names().items() if text.startswith(packages)]


@pytest.mark.parametrize("name", _shipped())
def test_a_shipped_set_loads_as_arrays_of_one_length(name):
    arrays = load(name)
    assert arrays
    rows = {len(array) for key, array in arrays.items() if key != "feature_names"}
    assert len(rows) == 1
    assert all(array.dtype.kind in "iufU" for array in arrays.values())
    assert name in ("co2", "fertility") or all(
        np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"
    )


def test_scikit_learn_sets_have_x_y_and_feature_names():
    assert list(load("iris")) == ["x", "y", "feature_names"]


def test_known_values():
    assert load("nile")["volume"][0] == 1120
    assert load("sunspots")["YEAR"][[0, -1]].tolist() == [1700, 2008]
    assert load("co2")["year"][0] == pytest.approx(1958 + 87 / 365)  # 29 March
    assert load("statecrime")["state"][0] == "Alabama"
    assert len(load("goog")["close"]) == 1047


def test_folder_sets(folder):
    assert load("uci/boston")["x"].shape == (5, 2)
    schools = load("posteriordb/schools-eight")
    assert schools["draws"].shape == (2, 3, 1)
    assert schools["draw_names"].tolist() == ["mu"]
    assert schools["y"].tolist() == [28, 8]
    assert load("mine")["b"].tolist() == ["x", "y"]
    assert "posteriordb/schools-eight" in names()
    assert "mine" in names()


def test_load_refuses_what_it_does_not_know(folder):
    with refuses("'uci/bostn'", "did you mean 'uci/boston'"):
        load("uci/bostn")
    with refuses("'irs'", "'iris'"):
        load("irs")
    with refuses("uci/yacht", "put yacht.npz into"):
        load("uci/yacht")
    (folder.parent / "secret.npz").write_bytes(b"")
    with refuses("there is no data set"):
        load("../secret")
    with refuses("there is no data set"):
        load("")


def test_load_says_what_to_set_or_install(no_folder, monkeypatch):
    with refuses("set the environment variable RITZ_DATA", "uci/boston.npz", "UCI"):
        load("uci/boston")
    with refuses("RITZ_DATA", "posteriordb/arK-arK"):
        load("posteriordb/arK-arK")
    with refuses("there is no data set 'nil'", "'nile'"):
        load("nil")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with refuses("'iris'", "pip install scikit-learn"):
        load("iris")
    monkeypatch.setenv("RITZ_DATA", "/nonexistent")
    with refuses("RITZ_DATA is '/nonexistent'", "not a folder"):
        load("uci/boston")


def test_importing_data_imports_nothing_heavy():
    code = (
        "import sys, ritz.data._make_batches, ritz.data._bind, ritz.data._named\n"
        "before = 'jax' in sys.modules\n"
        "print([m for m in ('pandas', 'sklearn', 'statsmodels', 'xarray', 'h5netcdf')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- files


def _write(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")
    return path


def test_csv_types(tmp_path):
    path = _write(
        tmp_path,
        "a.csv",
        "\ufeffi,f,t,b,m,u\r\n1,1.5,x,true,,1_0\r\n2,-inf,y,False,3,2\r\n\r\n",
    )
    table = read(path)
    assert isinstance(table, Table)
    assert table.source == "a.csv"
    columns = table.columns
    assert {name: column.dtype.kind for name, column in columns.items()} == {
        "i": "i",
        "f": "f",
        "t": "U",
        "b": "b",
        "m": "f",
        "u": "U",
    }
    assert columns["i"].tolist() == [1, 2]
    assert np.isnan(columns["m"][0])
    assert table.rows == 2


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_delimiters_and_quotes(tmp_path, delimiter):
    text = delimiter.join(["y", '"na""me"']) + "\n" + delimiter.join(["1", f'"a{delimiter}b"'])
    table = read(_write(tmp_path, "a.csv", text))
    assert isinstance(table, Table)
    assert table.columns['na"me'].tolist() == [f"a{delimiter}b"]


def test_csv_row_labels_are_left_out(tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame({"y": [1.5, 2.5]}).to_csv(path)
    table = read(path)
    assert isinstance(table, Table)
    assert list(table.columns) == ["y"]
    assert "row labels" in table.source


def test_csv_of_one_column_keeps_its_missing_cells(tmp_path):
    table = read(_write(tmp_path, "a.csv", "y\n1\n\n3\n\n"))
    assert isinstance(table, Table)
    assert np.isnan(table.columns["y"][1])
    assert table.rows == 3


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["a.csv is empty"]),
        ("  \n\n", ["a.csv is empty"]),
        ("x,y\n", ["names 2 columns and has no rows"]),
        ("x,y\n1,2\n3\n", ["ragged", "line 3 has 1 cells"]),
        ("\n\nx,y\n1,2,3\n", ["ragged", "line 4 has 3 cells"]),
        ("x,x\n1,2\n", ["two columns named 'x'"]),
        ("x,,y\n1,2,3\n", ["column 2", "no name"]),
        ("1,2\n3,4\n", ["holds numbers", "add a line of names"]),
        ('x,y\n"1,2\n', ["not CSV at line"]),
        ("x;y\n1,5;2\n2,5;3\n", ["decimals with commas", "1,5"]),
        (b"\x89PNG\r\n\x1a\n\x00\xff\xfe", ["not UTF-8"]),
        (b"x,y\n1,\x00\n", ["binary"]),
    ],
)
def test_csv_refusals(tmp_path, content, parts):
    with refuses(*parts):
        read(_write(tmp_path, "a.csv", content))


def test_json(tmp_path):
    arrays = read(
        _write(tmp_path, "a.json", '{"N": 2, "y": [1, null], "x": [[1, 2], [3, 4]], "g": ["a"]}')
    )
    assert isinstance(arrays, dict)
    assert arrays["N"].shape == ()
    assert np.isnan(arrays["y"][1])
    assert arrays["x"].shape == (2, 2)
    assert arrays["g"].tolist() == ["a"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ["a.json is not JSON"]),
        ("[1, 2]", ["holds a list", "expected an object"]),
        ("{}", ["holds no data"]),
        ('{"y": [1, [2, 3]]}', ["'y' in a.json is ragged"]),
        ('{"y": [[1], [2, 3]]}', ["'y' in a.json is ragged"]),
        ('{"y": {"a": 1}}', ["'y' in a.json is an object"]),
        ('{"y": [1, "b"]}', ["mixes kinds"]),
        ('{"y": [1, {"a": 2}]}', ["mixes kinds"]),
        ('{"y": 1, "y": 2}', ["'y' occurs twice"]),
        (b"\xff\xfe\x00", ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
    ],
)
def test_json_refusals(tmp_path, content, parts):
    with refuses(*parts):
        read(_write(tmp_path, "a.json", content))


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", y=np.arange(3))
    arrays = read(tmp_path / "a.npz")
    assert isinstance(arrays, dict)
    assert arrays["y"].tolist() == [0, 1, 2]


def test_npz_refusals(tmp_path):
    np.savez(tmp_path / "a.npz", y=np.array([{}], dtype=object))
    with refuses("a.npz", "Python objects"):
        read(tmp_path / "a.npz")
    with (tmp_path / "b.npz").open("wb") as file:
        np.save(file, np.arange(3))
    with refuses("b.npz is one array"):
        read(tmp_path / "b.npz")
    for content in (b"PK\x03\x04junk", b"junk", (tmp_path / "a.npz").read_bytes()[:50]):
        with refuses("c.npz is not an NPZ file"):
            read(_write(tmp_path, "c.npz", content))
    np.savez(tmp_path / "d.npz")
    with refuses("d.npz holds no data"):
        read(tmp_path / "d.npz")


def test_netcdf(tmp_path):
    import xarray

    data = xarray.Dataset(
        {"y": ("t", [1.0, 2.0]), "n": ((), 3)},
        coords={"t": [10, 20], "y_dim_0": ("t", [0, 1])},
    )
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    data.to_netcdf(tmp_path / "old.nc", engine="scipy")
    for name in ("a.nc", "old.nc"):
        arrays = read(tmp_path / name)
        assert isinstance(arrays, dict)
        assert set(arrays) == {"y", "n", "t"}
        assert arrays["t"].tolist() == [10, 20]


def test_netcdf_of_arviz(tmp_path):
    import xarray

    path = tmp_path / "a.nc"
    part = xarray.Dataset({"mu": ("draw", [1.0])})
    part.to_netcdf(path, group="posterior", engine="h5netcdf")
    with refuses("groups posterior", "no observed_data"):
        read(path)
    for group, name in (("observed_data", "y"), ("constant_data", "x")):
        part = xarray.Dataset({name: ("row", [1.0, 2.0])})
        part.to_netcdf(path, group=group, mode="a", engine="h5netcdf")
    assert set(read(path)) == {"y", "x"}  # type: ignore[arg-type]


def test_netcdf_refusals(tmp_path):
    with refuses("a.nc is not a NetCDF file"):
        read(_write(tmp_path, "a.nc", b"junk"))
    with refuses("b.nc cannot be read as NetCDF"):
        read(_write(tmp_path, "b.nc", b"\x89HDF\r\n\x1a\n" + b"\x00" * 64))


def test_path_refusals(tmp_path):
    _write(tmp_path, "schools.csv", "y\n1\n")
    with refuses("there is no file", "did you mean 'schools.csv'"):
        read(tmp_path / "school.csv")
    with refuses("there is no file", "check the path"):
        read(tmp_path / "nowhere" / "school.csv")
    with refuses(".xlsx", ".csv, .tsv, .json, .npz, .nc"):
        read("a.xlsx")
    with refuses("without a suffix"):
        read("a")
    (tmp_path / "folder.csv").mkdir()
    with refuses("is a folder"):
        read(tmp_path / "folder.csv")
    with refuses("a.json is empty"):
        read(_write(tmp_path, "a.json", ""))


def test_a_table_refuses_unequal_columns():
    with refuses("'x' has 2 rows, 'y' has 3"):
        Table({"x": np.zeros(2), "y": np.zeros(3)})
    with refuses("'x'", "one-dimensional"):
        Table({"x": np.zeros((2, 2))})


# ---------------------------------------------------------------- binding: mappings and tuples


def regression(x, y=None, scale=1.0):
    """A model's arguments."""


def test_bind_a_mapping():
    key = jax.random.key(0)
    function = np.sum
    device = jnp.ones(2)

    def model(a, b, c, d, e, f, g, h, i, k=3):
        """Arguments of every kind."""

    binding = bind(
        model,
        {
            "a": [1, 2],
            "b": device,
            "c": None,
            "d": "text",
            "e": function,
            "f": np.int64(3),
            "g": (4, 5),
            "h": pd.Series([1.0, 2.0]),
            "i": key,
        },
    )
    kwargs = binding.kwargs
    assert binding.args == ()
    assert isinstance(kwargs["a"], np.ndarray)
    assert kwargs["a"].dtype.kind == "i"
    assert kwargs["b"] is device
    assert kwargs["c"] is None
    assert kwargs["d"] == "text"
    assert kwargs["e"] is function
    assert type(kwargs["f"]) is int
    assert kwargs["g"] == (4, 5)
    assert isinstance(kwargs["h"], np.ndarray)
    assert kwargs["i"] is key
    assert "k" not in kwargs
    assert binding.report[0] == "a <- a (int, 2)"


def test_bind_a_tuple_and_none():
    binding = bind(regression, ([1.0, 2.0], np.zeros(2)))
    assert binding.kwargs == {}
    assert [type(value) for value in binding.args] == [np.ndarray, np.ndarray]
    assert binding.report == ("x <- value 0 (float, 2)", "y <- value 1 (float, 2)")
    assert bind(lambda: None, None).args == ()
    assert bind(regression, None, partial=True).kwargs == {}
    assert bind(regression, {"y": [1.0]}, partial=True).kwargs["y"].shape == (1,)


def test_bind_variadic_and_positional_only_models():
    assert len(bind(lambda *args: None, (1.0, [2.0])).args) == 2
    assert set(bind(lambda **kwargs: None, {"p": 1.0, "q": 2}).kwargs) == {"p", "q"}

    def model(a, b=2.0, /, c=None, *, d=None):
        """Arguments of every kind."""

    binding = bind(model, {"d": 1, "c": 2, "b": 3, "a": 4})
    assert binding.args == (4, 3)
    assert binding.kwargs == {"d": 1, "c": 2}
    assert bind(model, {"a": 4}).args == (4,)
    with refuses("'a' by position only"):
        bind(model, {"b": 4}, partial=True)
    with refuses("no named arguments", "'x'"):
        bind(lambda *args: None, {"x": 1})


def test_numpy_scalars_from_files_become_sizes(tmp_path):
    path = _write(tmp_path, "a.json", '{"J": 2, "s": 1.5, "y": [1, 2], "other": [0]}')
    binding = bind(lambda J, y, s: None, path)
    assert binding.kwargs["J"] == 2
    assert type(binding.kwargs["J"]) is int
    assert isinstance(binding.kwargs["s"], np.ndarray)  # traced, so that it does not recompile
    assert binding.report[-1] == "not used: other"


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"X": [1.0]}, ["no argument 'X'", "did you mean 'x'"]),
        ({"y": [1.0]}, ["needs 'x'", "they have y"]),
        ({1: [1.0]}, ["the key 1"]),
        (None, ["needs 'x'", "no data"]),
        ((), ["needs 'x'"]),
        ([28, 8, -3, 7], ["4 positional values", "at most 3 (x, y, scale)", "data=(array,)"]),
        (np.zeros((4, 2)), ["one array (float, 4 x 2)", "data=(array,)", "'x'"]),
        (3, ["a int; expected a tuple"]),
        ({"x": [1.0, float("nan")]}, ["argument 'x' holds nan at index 1", "drop or fill"]),
        ({"x": np.array([[1, np.inf], [np.nan, 1]])}, ["inf at index (0, 1)", "2 such values"]),
        ({"x": jnp.array([1.0, jnp.nan])}, ["argument 'x' holds nan at index 1"]),
        ({"x": jnp.array([1.0, jnp.nan], jnp.bfloat16)}, ["argument 'x' holds nan at index 1"]),
        ({"x": ["a", "b"]}, ["holds text ('a' at index 0)", "numpy.unique"]),
        ({"x": [[1, 2], [3]]}, ["ragged list"]),
        ({"x": [[1, 2], [3, "a"]]}, ["argument 'x'", "text"]),
        ({"x": [1, None]}, ["None at index 1"]),
        ({"x": np.array([1, 2.5], dtype=object)}, ["dtype object", ".astype(float)"]),
        ({"x": [print]}, ["Python objects (builtin_function_or_method at index 0)"]),
        ({"x": []}, ["no elements"]),
        ({"x": np.zeros((3, 0))}, ["no elements (shape (3, 0))"]),
        ({"x": np.array(["2020-01-01"], dtype="M8[D]")}, ["dates", "days since"]),
        ({"x": np.zeros(2, dtype=[("a", float)])}, ["record array"]),
        ({"x": np.ma.masked_equal([1, 2], 2)}, ["masked at index 1"]),
        ({"x": np.array([1, 2**40])}, ["1099511627776 at index 1", "32-bit integers", "x64"]),
        ({"x": np.array([1.0, 1e40])}, ["1e+40 at index 1", "32-bit floats"]),
        ({"x": pd.Series(["a", None])}, ["text ('a' at index 0)"]),
        ({"x": pd.array([1, None], dtype="Int64")}, ["nan at index 1"]),
        ({"x": {"inner": [np.nan]}}, ["argument 'x'['inner'] holds nan"]),
        ({"x": ([1.0], [np.nan])}, ["argument 'x'[1] holds nan"]),
        (([np.nan],), ["argument 'x' holds nan"]),
    ],
)
def test_bind_refusals(data, parts):
    with refuses(*parts):
        bind(regression, data)


def test_bind_refuses_sparse_matrices_and_non_functions():
    import scipy.sparse

    with refuses("sparse", ".toarray()"):
        bind(regression, {"x": scipy.sparse.eye(3, format="csr")})
    with refuses("model is a str"):
        signature_of("model")


def test_large_integers_are_fine_in_64_bits():
    with jax.enable_x64(True):
        assert bind(regression, {"x": np.array([2**40])}).kwargs["x"][0] == 2**40


def test_bind_inside_a_transformation():
    assert jax.jit(lambda x: bind(regression, {"x": x}).kwargs["x"] * 2)(1.0) == 2.0


# ---------------------------------------------------------------- binding: tables


@pytest.fixture
def radon():
    return Table(
        {
            "county": np.array(["STEARNS", "ANOKA", "AITKIN", "ANOKA"]),
            "floor": np.array([True, False, False, True]),
            "uranium": np.array([0.1, 0.2, 0.3, 0.4]),
            "zone": np.array([1, 2, 1, 2]),
            "log_radon": np.array([0.5, 0.25, 1.0, 2.0]),
        },
        source="radon.csv",
    )


def test_bind_a_table(radon):
    def model(X, county, n_county, n_zone, N, log_radon=None, n=1, prior=None):
        """Arguments of every kind."""

    binding = bind(model, radon)
    kwargs = binding.kwargs
    assert kwargs["county"].tolist() == [2, 1, 0, 1]
    assert kwargs["n_county"] == 3
    assert kwargs["n_zone"] == 3
    assert kwargs["N"] == 4
    assert "n" not in kwargs  # a default other than None means something
    # floor and uranium: zone is counted, log_radon and county are arguments
    np.testing.assert_allclose(
        kwargs["X"], np.stack([radon.columns["floor"], radon.columns["uranium"]], axis=1)
    )
    assert kwargs["log_radon"].dtype == np.float64
    assert binding.report == (
        "radon.csv: 4 rows",
        "X <- floor, uranium (float, 4 x 2)",
        "county <- county (3 categories: AITKIN, ANOKA, STEARNS)",
        "n_county = 3 (categories of county)",
        "n_zone = 3 (codes 1 to 2 of zone; no row has code 0: are they counted from 1?)",
        "N = 4 (rows)",
        "log_radon <- log_radon (float, 4 rows)",
        "no column, so the default: n, prior",
    )


def test_a_column_with_a_letter_amiss_is_not_the_prior():
    model = lambda dose, clearance=None, weight=None: None
    rows = {"dose": [1.0, 2.0], "clearence": [3.0, 4.0], "height": [1.0, 1.0]}
    with pytest.raises(RitzError, match=r"'clearance' has no column.*'clearence'"):
        bind(model, pd.DataFrame(rows))
    rows["clearance"] = rows.pop("clearence")
    assert bind(model, pd.DataFrame(rows)).report[-1] == "not used: height"  # another word


def test_bind_codes_truth_values_and_reports_what_is_unused(radon):
    binding = bind(lambda floor, n_floor, n=None: None, radon)
    assert binding.kwargs["floor"].tolist() == [1, 0, 0, 1]
    assert binding.kwargs["n_floor"] == 2
    assert binding.kwargs["n"] == 4
    assert binding.report[-1] == "not used: county, uranium, zone, log_radon"


def test_bind_all_columns_to_a_model_of_any_keywords(radon):
    assert set(bind(lambda uranium, **rest: None, radon).kwargs) == set(radon.columns)


def test_new_data_are_coded_as_in_the_fit(radon):
    def model(X, county, n_county, zone, n_zone, log_radon=None):
        """Arguments of every kind."""

    first = bind(model, radon)
    new = Table(
        {
            "uranium": np.array([0.9]),
            "county": np.array(["STEARNS"]),
            "floor": np.array([False]),
            "zone": np.array([1]),
            "extra": np.array([3.0]),
        }
    )
    again = bind(model, new, partial=True, like=first).kwargs
    assert again["county"].tolist() == [2]
    assert again["n_county"] == 3
    assert again["n_zone"] == 3
    assert again["X"].tolist() == [[0.0, 0.9]]
    alone = bind(model, new, partial=True).kwargs
    assert alone["county"].tolist() == [0]  # what would go wrong without `like`
    for column, value, parts in (
        ("county", np.array(["DULUTH"]), ["'DULUTH' in row 0", "did not see"]),
        ("zone", np.array([7]), ["code 7", "codes end at 2"]),
        ("floor", np.array(["up"]), ["'floor'", "text"]),
    ):
        changed = Table({**new.columns, column: value})
        with refuses(*parts):
            bind(model, changed, partial=True, like=first)
    with refuses("'X' was made of", "'floor' is not in"):
        bind(
            model,
            Table({name: column for name, column in new.columns.items() if name != "floor"}),
            partial=True,
            like=first,
        )


def test_bind_a_data_frame():
    frame = pd.DataFrame(
        {
            "y": [1.0, 2.0, 3.0],
            "k": pd.array([1, 2, 3], dtype="Int64"),
            "group": ["b", "a", "b"],
            "size": pd.Categorical(
                ["high", "low", "low"], categories=["low", "mid", "high"], ordered=True
            ),
            "code": pd.Categorical([10, 9, 10]),
            "mom.iq": [1, 2, 3],
        },
        index=[5, 6, 7],
    )
    binding = bind(lambda y, k, group, size, n_size, code, mom_iq: None, frame)
    assert binding.kwargs["k"].dtype == np.int64
    assert binding.kwargs["group"].tolist() == [1, 0, 1]
    assert binding.kwargs["size"].tolist() == [2, 0, 0]  # in the declared order
    assert binding.kwargs["n_size"] == 3
    assert binding.kwargs["code"].tolist() == [1, 0, 1]  # 9 before 10
    assert "mom_iq <- mom.iq (int, 3 rows)" in binding.report


@pytest.mark.parametrize(
    ("columns", "model", "parts"),
    [
        ({}, lambda y: None, ["no columns"]),
        ({"y": []}, lambda y: None, ["no rows"]),
        ({"y": [1.0, np.nan, np.nan]}, lambda y: None, ["'y'", "row 1", "2 in all"]),
        ({"y": ["a", None]}, lambda y: None, ["column 'y' has a missing value in row 1"]),
        ({"y": [1.0], "x": [np.nan]}, lambda X, y: None, ["column 'x' has a missing value"]),
        ({"y": [1.0, np.inf]}, lambda y: None, ["column 'y' holds inf at index 1"]),
        ({"Y": [1.0]}, lambda y: None, ["needs 'y'", "did you mean 'Y'"]),
        ({"Y": [1.0], "x": [1.0]}, lambda x, y=None: None, ["'y' has no column", "'Y'"]),
        ({"y": [1.5]}, lambda n_y: None, ["'n_y'", "kind float"]),
        ({"y": [1, -1]}, lambda n_y: None, ["code -1 in row 1"]),
        ({"y": pd.to_datetime(["2020-01-01"])}, lambda y: None, ["'y' holds dates"]),
        ({"y": [(1, 2)]}, lambda y: None, ["column 'y' holds Python objects (tuple at index 0)"]),
        ({"a.b": [1], "a-b": [2]}, lambda a_b: None, ["'a.b', 'a-b'", "rename all but one"]),
        ({"y": ["a"]}, lambda X, y: None, ["needs 'X'"]),
        ({"y": [1.0]}, lambda *args: None, ["no named arguments"]),
    ],
)
def test_table_refusals(columns, model, parts):
    with refuses(*parts):
        bind(model, pd.DataFrame(columns))


def test_a_data_frame_of_twin_columns_is_refused():
    with refuses("two columns named 'y'"):
        bind(lambda y: None, pd.DataFrame([[1, 2]], columns=["y", "y"]))


def test_bind_a_csv_file(tmp_path):
    path = _write(tmp_path, "a.csv", "county,y\nANOKA,1.5\nAITKIN,NA\n")
    with refuses("column 'y' has a missing value in row 1"):
        bind(lambda county, y: None, str(path))
    assert bind(lambda county: None, path).kwargs["county"].tolist() == [1, 0]


# ---------------------------------------------------------------- batches of arrays


@pytest.mark.parametrize(("rows", "size"), [(10, 3), (7, 7), (5000, 999), (4096, 64), (1, 1)])
def test_every_pass_sees_each_row_once(rows, size):
    cut = batches((np.arange(rows),), size, seed=3)
    passes = 4
    steps = -(-passes * rows // size)
    order = np.concatenate([cut.chunk(s, 1) for s in range(steps)]).reshape(-1)
    for epoch in range(passes):
        seen = order[epoch * rows : (epoch + 1) * rows]
        np.testing.assert_array_equal(np.sort(seen), np.arange(rows))
    if rows > 5:
        assert not np.array_equal(order[:rows], order[rows : 2 * rows])  # shuffled anew


def test_a_batch_is_a_function_of_seed_and_number():
    def cut(seed):
        return batches({"x": np.arange(50)}, 8, seed=seed)

    whole = cut(1).chunk(0, 40)
    assert whole.dtype == np.int32
    assert whole.shape == (40, 8)
    again = cut(1)
    for start, n in ((13, 5), (0, 3), (35, 5)):  # in any order
        np.testing.assert_array_equal(again.chunk(start, n), whole[start : start + n])
    assert not np.array_equal(cut(2).chunk(0, 40), whole)
    # Written down, so that another process, platform or version must agree.
    assert batches((np.arange(5),), 5, seed=0).chunk(0, 2).tolist() == PINNED


PINNED = [[2, 4, 3, 0, 1], [4, 1, 2, 0, 3]]


def test_get_takes_rows_under_jit_and_keeps_scalars():
    x, y = np.arange(12.0).reshape(6, 2), jnp.arange(6)
    cut = batches({"x": x, "n": 7, "y": y}, 4)
    index = cut.chunk(0, 1)[0]
    assert cut.get(cut.arrays, index)["n"] == 7
    batch = jax.jit(cut.get)(cut.arrays, index)
    np.testing.assert_allclose(batch["x"], x[index])
    np.testing.assert_array_equal(batch["y"], index)
    assert cut.static == {"n": 7}
    example = cut.example()
    assert isinstance(example, dict)
    assert isinstance(example["y"], np.ndarray)
    np.testing.assert_array_equal(example["y"], index)
    assert cut.abstract(3) == {
        "x": jax.ShapeDtypeStruct((3, 2), jnp.float32),
        "y": jax.ShapeDtypeStruct((3,), jnp.int32),
        "n": 7,
    }
    assert (cut.total, cut.size, cut.capacity) == (6, 4, 1000)


def test_scalars_keep_their_place_in_a_tuple():
    cut = batches((2, np.arange(3), "text", np.ones(3)), 2)
    assert isinstance(cut.arrays, tuple)
    batch = cut.example()
    assert isinstance(batch, tuple)
    assert batch[0] == 2
    assert batch[2] == "text"
    assert [len(batch[1]), len(batch[3])] == [2, 2]


def test_chunks_of_large_batches_stay_small():
    cut = batches((np.zeros(2**20),), 2**20)
    assert cut.capacity == 32


def test_scaled_batch_sums_are_unbiased():
    """Mean of total / size * batch sum = the full sum, within 4 standard errors."""
    value = np.random.default_rng(0).gamma(0.5, size=300)
    cut = batches((value,), 7, seed=5)
    order = cut.chunk(0, 300)
    sums = value[order].sum(axis=1) * cut.total / cut.size
    error = sums.std(ddof=1) / np.sqrt(len(sums))
    assert abs(sums.mean() - value.sum()) < 4 * error
    # The deliberately wrong scale is caught.
    assert abs((sums / cut.total).mean() - value.sum()) > 4 * error
    # Over whole passes the sum is exact.
    assert sums.mean() == pytest.approx(value.sum())


@pytest.mark.parametrize(
    ("data", "size", "options", "parts"),
    [
        ((np.zeros(4),), None, {}, ["size is missing", "4 rows"]),
        ((np.zeros(4),), 5, {}, ["size is 5", "from 1 to 4"]),
        ((np.zeros(4),), 0, {}, ["size is 0"]),
        ((np.zeros(4),), 2, {"total": 8}, ["total is 8", "4 rows"]),
        ((np.zeros(4),), 2, {"seed": -1}, ["seed is -1"]),
        ({"x": np.zeros(4), "y": np.zeros(3)}, 2, {}, ["4 rows in 'x'", "3 in 'y'"]),
        ({"x": np.zeros(4), "y": np.array(1.0)}, 2, {}, ["'y' in data is a single number"]),
        ((), 2, {}, ["no array"]),
        ({}, 2, {}, ["no array"]),
        ({"n": 3}, 2, {}, ["no array"]),
        ((np.zeros((0, 2)),), 1, {}, ["no elements"]),
        (({"x": np.zeros(2)},), 1, {}, ["a dict; expected an array"]),
        (((np.zeros(2), np.zeros(2)),), 1, {}, ["sequence of batches", "list"]),
        ({"x": np.array([1.0, np.nan])}, 1, {}, ["'x' in data holds nan at index 1"]),
        (np.zeros(4), 2, {}, ["one array", "(array,)"]),
        (pd.DataFrame({"y": [1.0]}), 1, {}, ["bind it first"]),
        (Table({"y": np.ones(1)}), 1, {}, ["bind it first"]),
        ("file.csv", 1, {}, ["a str arrived"]),
        (3, 1, {}, ["a int arrived"]),
        ([np.zeros(4), np.zeros(4)], 2, {}, ["a list is read as a sequence of batches"]),
    ],
)
def test_array_batch_refusals(data, size, options, parts):
    with refuses(*parts):
        batches(data, size, **options)


def test_batches_of_batches_are_refused():
    with refuses("batches already"):
        batches(batches((np.zeros(2),), 1), 1)


# ---------------------------------------------------------------- batches of iterables


def _loader(sizes, start=0):
    for i, size in enumerate(sizes):
        yield {"x": np.full((size, 2), float(start + i)), "y": np.arange(size)}


class Loader:
    """Re-iterable, with a short last batch, as a DataLoader is."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __iter__(self):
        return _loader(self.sizes)


def test_a_stream_passes_batches_through_and_starts_again():
    stream = batches(Loader([4, 4, 4, 1]), total=13)
    assert (stream.total, stream.size, stream.capacity, stream.arrays) == (13, 4, 32, ())
    seen = []
    while stream.position < 12:  # three passes
        start = stream.position
        chunk = stream.chunk(start, 32)
        m = len(chunk["y"])
        assert chunk["x"].shape[:1] == (m,)
        assert stream.position == start + m
        seen += [(len(y), x[0, 0]) for x, y in zip(chunk["x"], chunk["y"], strict=True)]
    assert seen[:4] == [(4, 0.0), (4, 1.0), (4, 2.0), (1, 3.0)]
    assert seen[4:8] == seen[:4]
    batch = stream.get((), {"x": 1})
    assert batch == {"x": 1}


def test_a_chunk_stops_before_another_shape():
    stream = batches(Loader([4, 4, 4, 1]), total=13)
    assert stream.chunk(0, 2)["y"].shape == (2, 4)
    assert stream.chunk(2, 10)["y"].shape == (1, 4)
    assert stream.chunk(3, 10)["y"].shape == (1, 1)
    assert stream.chunk(4, 2)["y"].shape == (2, 4)


def test_a_generator_ends_and_keeps_its_first_batch():
    stream = batches(_loader([3, 3]), total=6)
    example = stream.example()
    assert isinstance(example, dict)
    assert example["x"][0, 0] == 0.0
    assert stream.chunk(0, 5)["x"][:, 0, 0].tolist() == [0.0, 1.0]
    assert stream.chunk(2, 5) is None
    assert stream.chunk(2, 5) is None
    assert stream.position == 2
    assert stream.example() is not None


def test_stream_batches_may_be_lists_arrays_and_hold_scalars():
    stream = batches([[np.zeros(2), np.ones(2)]], total=2)
    assert isinstance(stream.example(), tuple)
    assert stream.chunk(0, 3)[0].shape == (3, 2)
    assert batches([np.zeros((2, 3))], total=2).example()[0].shape == (2, 3)
    stream = batches([{"x": np.zeros(2), "n": 5}, {"n": 5, "x": np.ones(2)}], total=4)
    assert stream.static == {"n": 5}
    assert stream.get((), {"x": 0}) == {"x": 0, "n": 5}
    assert stream.abstract(9) == {"x": jax.ShapeDtypeStruct((9,), jnp.float32), "n": 5}


def test_dicts_in_another_order_are_not_mixed_up():
    stream = batches(
        [{"a": np.zeros(2), "b": np.ones(2)}, {"b": np.ones(2), "a": np.zeros(2)}], total=4
    )
    chunk = stream.chunk(0, 2)
    assert chunk["a"].sum() == 0
    assert chunk["b"].sum() == 4


def test_streams_of_large_batches_are_asked_for_fewer():
    assert batches([(np.zeros((2, 2**23)),)], total=2).capacity == 2


def test_a_stream_is_read_in_order():
    stream = batches(Loader([2]), total=2)
    with refuses("batch 5 was asked for", "is 0"):
        stream.chunk(5, 1)


def _read_all(data, total):
    stream = batches(data, total=total)
    while stream.position < 4:
        stream.chunk(stream.position, 1)


@pytest.mark.parametrize(
    ("data", "total", "parts"),
    [
        ([(np.zeros(2),)], None, ["total is missing", "list"]),
        ([(np.zeros(2),)], 1, ["total is 1", "2 rows"]),
        ([], 3, ["the list yields no batch"]),
        (iter(()), 3, ["yields no batch", "was it read before?"]),
        ([3], 3, ["batch 0 is a int"]),
        ([("a",)], 3, ["batch 0 holds no array"]),
        ([(np.zeros(2), np.zeros(3))], 3, ["batch 0 has 2 rows in 0 and 3 in 1"]),
        ([(np.zeros(2),), (np.zeros(2), np.zeros(2))], 4, ["batch 1 is a tuple of 0 of 1 axes, 1"]),
        ([{"x": np.zeros(2)}, {"z": np.zeros(2)}], 4, ["batch 1 is a dict of 'z'", "'x'"]),
        ([{"x": np.zeros(2)}, (np.zeros(2),)], 4, ["batch 1 is a tuple", "batch 0 is a dict"]),
        ([(np.zeros(2),), (np.zeros((2, 2)),)], 4, ["0 of 2 axes", "0 of 1 axes"]),
        ([(np.zeros(2),), (np.full(2, np.nan),)], 4, ["0 in batch 1 holds nan at index 0"]),
        ([{"x": np.zeros(2), "n": 1}, {"x": np.zeros(2), "n": 2}], 4, ["'n' = 2", "batch 0 has 1"]),
        ([{"x": np.zeros(2)}, {"x": ["a", "b"]}], 4, ["'x' in batch 1 holds text"]),
    ],
)
def test_stream_refusals(data, total, parts):
    with refuses(*parts):
        _read_all(data, total)


def test_exceptions_of_a_loader_are_its_own():
    def broken():
        yield (np.zeros(2),)
        raise OSError("disk")

    with pytest.raises(OSError, match=re.escape("disk")):
        batches(broken(), total=4).chunk(0, 2)


def test_a_word_among_numbers_is_no_category(tmp_path):
    """It would be coded as one, and so would all numbers: a fit of codes in place of data."""
    path = tmp_path / "table.csv"
    path.write_text("x,y\n0,1.5\n1,2.5\n2,abc\n3,4.5\n")

    def model(x, y=None): ...

    with pytest.raises(RitzError, match=r"column 'y' has 'abc' in row 2 .* mostly numbers") as told:
        bind(model, path)
    assert "\n" not in str(told.value)
    path.write_text("x,y\n0,12a\n1,12b\n2,7\n3,12a\n")  # such as house numbers
    assert bind(model, path).kwargs["y"].tolist() == [0, 1, 2, 0]
