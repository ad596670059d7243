"""`ritz.resume`: a fit that was interrupted goes on from its last checkpoint."""

import os
from typing import Any

from ritz._checkpoints import Checkpoints
from ritz._result import Fit
from ritz.fit import fit
from ritz.solver._checkpoint import EVERY


def resume(
    path: str | os.PathLike[str],
    model: Any,
    data: Any = None,
    *,
    family: Any = None,
    objective: Any = None,
    estimator: Any = None,
    discrete: Any = None,
    solver: Any = None,
    init: Any = None,
    mesh: Any = None,
    callbacks: Any = (),
    progress: bool | float | None = None,
    strict: bool = False,
    checkpoint_every: Any = EVERY,
    budget: Any = None,
) -> Fit:
    """Go on with a fit from its last checkpoint, as if it had not been interrupted.

    The result has the same bits as that of a fit that ran through, on the same machine and with
    the same versions. A fit that had ended is returned as it was. Names and numbers that
    `ritz.fit` was given (a family's name, steps, the seed) are read back; objects, which no file
    holds, must be given again. A model, data, precision or part that differs is refused.

    Args:
        path: the directory that `ritz.fit(..., checkpoint=...)` made.
        model: the model or target that was fitted.
        data: its data. Batches of an iterable start from the first again; those that the run has
            seen are read and passed over.
        family: as it was given to `ritz.fit`, if it was no name.
        objective: the same.
        estimator: the same.
        discrete: the same.
        solver: the same.
        init: the same.
        mesh: as for `ritz.fit`; other devices than before, if you like, to the same answer but for
            rounding.
        callbacks: as for `ritz.fit`; others than before, if you like.
        progress: as for `ritz.fit`.
        strict: as for `ritz.fit`.
        checkpoint_every: as for `ritz.fit`; the run goes on writing to the same directory.
        budget: as for `ritz.fit`; of the steps that are made now.

    Returns:
        the `Fit`. Its seconds are those of this process and of all steps.

    Raises:
        RitzError: if there is no checkpoint, if it is damaged, or if something differs from what
            it was made with, naming it.

    >>> import jax.numpy as jnp, ritz, tempfile
    >>> target = ritz.target.from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.ones(2))
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = f"{folder.name}/fit"
    >>> stop = lambda state, steps, info: 1 / 0  # as if the machine had failed
    >>> try:
    ...     ritz.fit(target, steps=100, checkpoint=path, callbacks=[stop], strict=True)
    ... except ZeroDivisionError:
    ...     pass
    >>> fit = resume(path, target)
    >>> fit.info["steps"], bool((fit.q.loc == ritz.fit(target, steps=100).q.loc).all())
    (100, True)
    >>> folder.cleanup()
    """
    kept = Checkpoints(path, checkpoint_every, resumed=True)
    given = {
        "family": family,
        "objective": objective,
        "estimator": estimator,
        "discrete": discrete,
        "solver": solver,
        "init": init,
    }
    again = {"callbacks": callbacks, "progress": progress, "strict": strict}
    again |= {"mesh": mesh, "budget": budget}
    return fit(model, data, **kept.call(given), **again, checkpoint=kept)
