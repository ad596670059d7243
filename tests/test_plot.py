"""The pictures: what they show, of what they take, and what they refuse."""

import io
import itertools
import subprocess
import sys

import matplotlib
import matplotlib.figure
import numpy as np
import pytest

import ritz
from ritz import plot
from ritz.plot import _style
from ritz.solver import History

RNG = np.random.default_rng(0)
DRAWS = {"mu": RNG.normal(size=400), "theta": RNG.normal(size=(400, 2))}


def history(n=2000, end=1.0):
    steps = np.arange(n)
    loss = end + 50.0 * np.exp(-steps / 20.0) + 0.1 * np.random.default_rng(n).normal(size=n)
    return History({"loss": loss.astype(np.float32)})


class Run:
    """As much of a fit as `loss` needs."""

    def __init__(self, stop_reason, **options):
        self.history, self.stop_reason = history(**options), stop_reason


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def png(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


@pytest.fixture(scope="module")
def fit():
    target = ritz.target.from_log_density(
        lambda p: -0.5 * (p["a"] - 1.0) ** 2 - 0.5 * (p["b"] ** 2).sum(),
        {"a": 0.0, "b": np.zeros(2)},
    )
    return ritz.fit(target, steps=1000)


# -- one style ------------------------------------------------------------------------------------

PICTURES = {
    "loss": lambda: plot.loss({"one": Run("steps"), "two": history(end=2.0)}, reference=1),
    "margins": lambda: plot.margins(DRAWS, DRAWS),
    "pairs": lambda: plot.pairs(DRAWS, DRAWS),
    "calibration": lambda: plot.calibration(np.arange(200) % 100, 99),
    "images": lambda: plot.images(np.linspace(0, 1, 120).reshape(5, 6, 4)),
    "trajectories": lambda: plot.trajectories(np.arange(400), DRAWS["theta"].T, title="x"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_drawn_without_pyplot_and_leaves_the_settings_alone(name):
    before = dict(matplotlib.rcParams)
    figure = PICTURES[name]()
    assert isinstance(figure, matplotlib.figure.Figure)
    assert dict(matplotlib.rcParams) == before
    assert png(figure) == png(PICTURES[name]())
    assert figure.get_figwidth() <= 10.5


def test_every_public_picture_is_tested():
    assert set(PICTURES) == set(plot.__all__) - {"COLOURS", "canvas"}


def test_matplotlib_is_imported_at_the_first_picture_only():
    program = "import sys, ritz.plot; assert not {'matplotlib'} & set(sys.modules)\n"
    program += "ritz.plot.images([[[0.0]]]); assert 'matplotlib.pyplot' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_neighbouring_lines_differ_in_grey_or_dashes():
    looks = [_style.look(i) for i in range(28)]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 28

    def grey(colour):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    for one, two in itertools.pairwise(looks):
        assert one["linestyle"] != two["linestyle"]
        assert abs(grey(one["color"]) - grey(two["color"])) > 15


def test_canvas_gives_axes_in_rows_and_columns():
    with plot.canvas(2, 3, sharex=True) as (figure, axes):
        assert axes.shape == (2, 3)
        (line,) = axes[0, 0].plot([1, 2])
    assert line.get_color() == plot.COLOURS[0]
    assert figure.get_figwidth() == 10.0
    with pytest.raises(ritz.RitzError, match="0 × 1"), plot.canvas(0):
        pass


# -- what they show -------------------------------------------------------------------------------


def test_loss_shows_window_means_and_where_it_stopped():
    figure = plot.loss(Run("callback"), window=100)
    ax = figure.axes[0]
    step, mean, _ = history().windows(100)
    assert np.array_equal(ax.lines[0].get_xdata(), step)
    assert np.array_equal(ax.lines[0].get_ydata(), mean)
    assert labels(ax) == ["stopped at 2,000: callback"]
    assert ax.get_ylim()[1] < mean[0]
    assert "the first are above" in ax.get_title(loc="left")
    assert labels(plot.loss({"a": Run("steps")}).axes[0]) == ["a, all 2,000 steps made"]
    assert labels(plot.loss(history(), reference=1.5).axes[0])[1] == "reference 1.5"


def test_loss_does_not_cut_where_all_is_of_a_size():
    figure = plot.loss(History({"loss": np.linspace(3.0, 1.0, 500)}))
    assert figure.axes[0].get_ylim()[1] > 2.9
    assert "above" not in figure.axes[0].get_title(loc="left")


def test_fit_is_taken_as_it_is(fit):
    assert labels(plot.loss(fit).axes[0]) == ["all 1,000 steps made"]
    figure = plot.margins(fit, {"a": RNG.normal(1.0, 1.0, 4000), "b": RNG.normal(size=(4000, 2))})
    assert [ax.get_title(loc="left") for ax in figure.axes[:3]] == ["a", "b[0]", "b[1]"]
    assert "sd ×" in figure.axes[0].get_xlabel()
    assert len(plot.pairs(fit, names=["b"]).axes) == 4


def test_margins_say_how_far_off():
    off = {"mu": DRAWS["mu"] * 2.0 + 3.0 * DRAWS["mu"].std(ddof=1)}
    figure = plot.margins(off, DRAWS, names=["mu"])
    said = figure.axes[0].get_xlabel()
    assert said.endswith("sd × 2.00")
    assert said.startswith(("mean +3", "mean +2.9"))
    assert len(plot.margins(RNG.normal(size=(50, 30))).axes) == 12


def test_pairs_share_their_ranges():
    axes = np.reshape(plot.pairs(DRAWS).axes, (3, 3))
    assert axes[1, 0].get_xlim() == axes[2, 0].get_xlim() == axes[0, 0].get_xlim()
    assert axes[2, 0].get_ylim() == axes[2, 1].get_ylim()
    assert not axes[0, 1].get_visible()


def test_calibration_of_narrow_posteriors_leaves_the_band():
    ranks = {
        "right": RNG.integers(0, 100, 2000),
        "narrow": np.floor(100 * RNG.beta(0.4, 0.4, 2000)),
    }
    left, right = plot.calibration(ranks, 99).axes
    band = right.collections[0].get_paths()[0].vertices[:, 1]
    curves = {line.get_linestyle(): line.get_ydata() for line in right.lines[1:]}
    honest, narrow = curves.values()
    assert np.abs(honest).max() < 1.5 * band.max()
    assert narrow.min() < 3 * band.min()
    assert labels(left) == ["95% if right", "right", "narrow"]


def test_images_are_on_one_scale_with_labelled_rows():
    figure = plot.images({"data": np.zeros((2, 4, 4)), "samples": np.full((3, 4, 4), 0.5)})
    top, bottom = figure.axes
    assert top.get_title(loc="left") == "data"
    assert top.images[0].get_array().shape == bottom.images[0].get_array().shape == (4, 14)
    assert bottom.images[0].get_array()[0, 0] == 0.5
    assert top.images[0].get_array()[0, -1] == 1.0  # white where there is no image
    colour = plot.images(RNG.normal(size=(4, 5, 5, 3)), cols=4, limits=(-1, 1)).axes[0].images[0]
    assert colour.get_array().shape == (5, 23, 3)


def test_trajectories_show_the_median_and_the_range():
    runs = np.arange(11.0)[:, None] * np.ones(5)
    figure = plot.trajectories(range(5), {"a": runs, "b": runs[0] + 1.0}, points=([1, 2], [3, 4]))
    ax = figure.axes[0]
    assert (ax.lines[0].get_ydata() == 5.0).all()
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert np.allclose([band.min(), band.max()], [0.5, 9.5])
    assert ax.get_title(loc="right") == "median and central 90% of 11"
    assert labels(ax) == ["a", "b", "observed"]
    assert plot.trajectories([1, 2], [1, 2], log="xy").axes[0].get_yscale() == "log"


# -- what they refuse -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: plot.loss([1.0, 2.0]), "expected a fit or a history, got list"),
        (lambda: plot.loss(History()), "0 records"),
        (lambda: plot.loss(history(), window=0), "window=0"),
        (lambda: plot.loss({}), "empty mapping"),
        (lambda: plot.loss(History({"loss": np.full(9, np.nan)})), "finite"),
        (lambda: plot.margins({"a": [1.0, np.nan]}), "'a' holds nan at index 1"),
        (lambda: plot.margins({"a": [1.0]}), "1 draws"),
        (lambda: plot.margins(DRAWS, names=["thet"]), "did you mean 'theta'"),
        (lambda: plot.margins(DRAWS, names=[]), "empty list"),
        (lambda: plot.margins(DRAWS, {"mu": DRAWS["mu"]}), "no 'theta[0]'"),
        (lambda: plot.margins(np.zeros((2, 2, 2))), "(2, 2, 2)"),
        (lambda: plot.margins(["a", "b"]), "expected numbers"),
        (lambda: plot.margins({}), "no draws"),
        (lambda: plot.pairs(DRAWS["mu"]), "two scalars"),
        (lambda: plot.pairs(DRAWS, {"mu": DRAWS["mu"]}), "no 'theta[0]'"),
        (lambda: plot.calibration([1, 101] * 20, 100), "0 to draws=100"),
        (lambda: plot.calibration([0.5] * 40, 100), "whole numbers"),
        (lambda: plot.calibration([1, 2], 100), "fewer bins"),
        (lambda: plot.calibration([1, 2], 0), "draws >= 1"),
        (lambda: plot.images(np.zeros((3, 3))), "(3, 3)"),
        (lambda: plot.images(np.zeros((3, 3, 3, 2))), "1 or 3 channels"),
        (lambda: plot.images(np.zeros((401, 2, 2))), "401 images"),
        (lambda: plot.images({}), "empty mapping"),
        (lambda: plot.images(np.zeros((0, 2, 2))), "nothing to draw"),
        (lambda: plot.trajectories([1, 2], {"a": [1, 2, 3]}), "'a' has 3 values"),
        (lambda: plot.trajectories([1, 2], [-1, -2], log="y"), "no positive value"),
        (lambda: plot.trajectories([1, 2], [1, 2], log="z"), "'z'"),
        (lambda: plot.trajectories([1, 2], [1, 2], points=([1], [1, 2])), "1 points in x"),
    ],
)
def test_bad_input_is_one_line(call, part):
    with pytest.raises(ritz.RitzError) as caught:
        call()
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
