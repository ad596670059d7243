"""`ritz.fit`: picks the parts, runs them, returns a `Fit`."""

import functools
import importlib.metadata
import os
import time
from typing import Any

import jax
import numpy as np

from ritz import _automatic, _discrete, _parts
from ritz import data as _data
from ritz import family as _family
from ritz._checkpoints import Checkpoints
from ritz._compile import spent
from ritz._errors import RitzError
from ritz._mesh import as_mesh, mesh_of, told, writes
from ritz._models import targeted
from ritz._precision import doubled
from ritz._result import Fit
from ritz.objective import AbstractObjective, Problem
from ritz.solver import AbstractSolver, Budget, run
from ritz.solver._checkpoint import EVERY
from ritz.target import AbstractTarget

LR, DRAWS = 0.02, 4


def fit(
    model: Any,
    data: Any = None,
    *,
    family: Any = None,
    objective: Any = None,
    estimator: Any = None,
    discrete: Any = None,
    solver: Any = None,
    steps: Any = None,
    lr: Any = None,
    draws: Any = None,
    init: Any = None,
    seed: Any = 0,
    callbacks: Any = (),
    progress: bool | float | None = None,
    strict: bool = False,
    mesh: Any = None,
    checkpoint: Any = None,
    checkpoint_every: Any = EVERY,
    budget: Any = None,
) -> Fit:
    r"""Fit a posterior.

    Finds the member of a family closest to the posterior by minimising an objective, by default
    the negative ELBO :math:`\mathrm{KL}(q_\lambda\,\|\,p) - \log Z`.

    Where no family, objective, estimator, solver, number of steps or draws or learning rate is
    named, all data are there and the target has at most 1,000 dimensions, the parts are chosen
    here: full-rank Gaussians by natural gradient from five starts (three above 100 dimensions),
    each with wider ones beside it and all together if they are different modes, and draws
    resampled from that mixture by Pareto-smoothed importance weights. Sites of a NumPyro model that
    are normal, log-normal or Student-t with a location or scale that depends on other sites are
    seen in coordinates between centred and non-centred, each element as far as data say of it.
    Where rounding in float32 spoils the log density, as of a matrix that has no Cholesky factor
    any more, all of it is done in float64, but for fits with a `budget` or a `mesh`.
    `Fit.explain` tells what was found on the way. Elsewhere the defaults are those of each
    argument.

    Args:
        model: a NumPyro model, a PyMC model, or a target from `ritz.target`. Parameters of its
            own, such as a model's `numpyro.param` sites, are trained along with the family.
        data: the model's arguments: a tuple (by position), a mapping (by name), a table (a
            DataFrame or the path of a file; columns are bound to arguments by name, and the
            summary says which to which), or
            `ritz.data.batches(...)`, to see some rows at a time. None where the target holds its
            own.
        family: a name from `ritz.family.registered()`, a function `(target, start)`, or a
            family. By default "full_rank" up to 50 dimensions and "mean_field" above, where the
            solver moves it.
        objective: from `ritz.objective`, or a function `(q, target)` that calls
            `ritz.objective.sample` and returns the number to minimise; by default
            `negative_elbo(draws)`, or `linearised_elbo(draws)` for implicit samplers.
        estimator: from `ritz.estimator`; by default `pathwise()` where the family's draws are
            differentiable. In an objective that is a function, it serves each choice from the
            family for which the function names none.
        discrete: what is done with the model's discrete latent sites: "summed", exactly;
            "score", drawn from independent choices by the score function; "relaxed", drawn by
            the Gumbel-softmax relaxation, for choices of 0 or 1; an estimator; or a mapping from
            sites to these. By default they are summed, and drawn where too many combinations
            would have to be. The summary says what was done.
        solver: a name from `ritz.solver.registered()`, an Optax transformation or a
            `ritz.solver`; by default `adam(lr, steps)`, or
            what the family names.
        steps: how many steps to make, at most, where the solver knows when it has converged. By
            default Adam ends by itself, after 50,000 at most (10,000 for an objective that changes
            by step), and another solver makes what it finds enough.
        lr: the learning rate of Adam; by default 0.02.
        draws: the draws a step of the default objective; by default 4.
        init: where to start: values in the model's own parameters, by site name (others start
            at the prior median; deterministic sites are not read), or an earlier `Fit` of the same
            sites.
        seed: an integer or a JAX key. The same seed gives the same bits.
        callbacks: called between chunks of steps as `callback(state, steps, info)`; one that
            returns True stops the run.
        progress: None shows a bar in a terminal or notebook only; a number is its interval in
            seconds.
        strict: raise if the run fails, instead of returning the last finite state.
        mesh: devices that share the work: a `jax.sharding.Mesh`, a list of devices, or how many of
            `jax.devices()`. Rows of data are split among them where their number divides and is
            at least 16 for each; else the draws, points and starts of a step are. The answer is
            that of one device but for rounding; `explain` tells what was split. Where they belong
            to several processes, each makes the same calls, and one of them writes files.
        checkpoint: a directory in which the state is kept while the fit runs, so that
            `ritz.resume` goes on from there after whatever interrupted it. One that holds another
            fit's is refused. Where it cannot be written a warning says so, and the run goes on.
        checkpoint_every: seconds between two writes; the last one is at the end.
        budget: what the fit may cost at most, `{"seconds": 30}` or `{"evaluations": 100_000}` (of
            the log density's gradient). Seconds count compilation, which is not cut short. What
            was found so far is the fit, whose `stop_reason` is "budget" and which is doubtful.
            `ritz.resume` goes on from there.

    Returns:
        a `Fit`.

    Raises:
        RitzError: for bad input, in one line.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> posterior = fit(model, (np.array([1.0, 2.0, 3.0]),), steps=2000)
    >>> bool(abs(posterior.mean()["mu"] - 2.0) < 0.1)
    True
    """
    began, spent_before = time.perf_counter(), spent()
    key = _parts.as_key(seed)
    mesh = None if mesh is None else as_mesh(mesh)
    limit = None if budget is None else Budget(budget)
    kept = _kept(checkpoint, checkpoint_every)
    treatment, by_site = _discrete.split(discrete)
    target, batches, binding = targeted(model, data, treatment)
    target = _parts.resumed(target, init)
    start_key, run_key, fit_key = jax.random.split(key, 3)
    asked = (family, objective, estimator, solver, steps, lr, draws)
    looped = {"callbacks": callbacks, "progress": progress, "strict": strict, "budget": limit}
    again = functools.partial(
        fit,
        family=family,
        objective=objective,
        estimator=estimator,
        solver=solver,
        steps=steps,
        lr=lr,
        draws=draws,
        init=init,
    )
    if kept is not None:
        parts = {"family": family, "objective": objective, "estimator": estimator, "init": init}
        parts |= {"discrete": discrete, "solver": solver, "steps": steps, "lr": lr, "draws": draws}
        kept.begin(target, batches, parts, key, writes(mesh))
    rows = {} if mesh is None else target.rows
    target = target.on(mesh)
    if mesh is not None and mesh_of(target) is None:
        raise RitzError(
            f"mesh: no array among the arguments of {_name(model)} can be put on devices; pass the "
            "data as arguments, in arrays"
        )
    if batches is None and all(part is None for part in asked) and _automatic.serves(target):
        x, how = _parts.point_of(target, init, start_key)
        found = _automatic.search(target, x, how, run_key, kept=kept, **looped)
        if found.rounding is not None and limit is None:
            with jax.enable_x64(True):
                own = doubled(model) if isinstance(model, AbstractTarget) else model
                options = {"callbacks": callbacks, "progress": progress, "strict": strict}
                better = again(own, data, discrete=discrete, seed=seed, **options)
            better.info["decisions"].insert(0, f"in float64, as {found.rounding}")
            better.info["evaluations"] += found.evaluations
            better.info["compile_seconds"] = spent() - spent_before
            better.info["total_seconds"] = time.perf_counter() - began
            return better
        target, q, result = found.target, found.q, found.result
        made = {
            "objective": "NegativeELBO",
            "solver": "natural_gradient",
            "start": how,
            "evaluations": found.evaluations,
            "decisions": found.decisions,
            "refitted": found.refitted,
        }
        correction = "importance"
    else:
        lr, draws = LR if lr is None else lr, DRAWS if draws is None else draws
        changes = isinstance(objective, AbstractObjective) and objective.changes
        asked_steps = AbstractSolver.steps if steps is None and changes else steps
        chosen = _parts.solver_of(solver, lr, asked_steps)
        q, how = _parts.start_of(target, family, chosen.families, init, start_key)
        if solver is None and q.solver is not None:
            solver, chosen = q.solver, _parts.solver_of(q.solver, lr, asked_steps)
        elif solver is None or solver == "adam":
            chosen = _parts.solver_of(None, lr, asked_steps, q.clip)
        steps = chosen.steps if steps is None else steps
        q = chosen.prepare(q)
        problem = Problem(
            target,
            q,
            _parts.objective_of(objective, draws, q, target),
            _parts.estimator_of(estimator, q, target, by_site),
        )
        looped |= {"batches": batches, "checkpoint": None if kept is None else kept.run()}
        result = run(problem, chosen, steps, run_key, **looped)
        answer = chosen.answer(result.state)
        q, target = problem.family_at(answer), problem.target_at(answer)
        made = {
            "objective": type(problem.objective).__name__,
            "solver": _parts.solver_name(solver, chosen, lr, q.clip),
            "start": how,
            "evaluations": chosen.evaluations(problem, result.state, result.steps),
        }
        correction = chosen.correction
        if problem.trains_target:
            made["trained"] = [_shown(name, value) for name, value in target.trained.items()]
    info = made | {
        "model": _name(model),
        "family": _family.name_of(q) or type(q).__name__,
        "steps": result.steps,
        "compile_seconds": spent() - spent_before,
        "run_seconds": result.run_seconds,
        "total_seconds": time.perf_counter() - began + (0.0 if kept is None else kept.seconds),
        "compiled": result.compiled,
        "dtype": str(np.dtype(jax.dtypes.canonicalize_dtype(float))),
        "versions": {n: importlib.metadata.version(n) for n in ("ritz", "jax", "numpyro")},
    }
    tabular = isinstance(data, str | os.PathLike | _data.Table) or hasattr(data, "columns")
    if binding is not None and tabular:
        info["data"] = list(binding.report)
    if mesh is not None:
        info["mesh"] = told(rows, mesh, getattr(batches, "size", None))
    lines = getattr(target, "lines", ())
    if lines:
        info["discrete"] = list(lines)
    return Fit(
        q=q,
        target=target,
        history=result.history,
        stop_reason=result.stop_reason,
        message=result.message,
        key=fit_key,
        info=info,
        binding=binding,
        correction=correction,
        again=again,
    )


def _kept(checkpoint: Any, every: Any) -> Checkpoints | None:
    if checkpoint is None or isinstance(checkpoint, Checkpoints):
        return checkpoint
    if not isinstance(checkpoint, str | os.PathLike):
        raise RitzError(
            f"checkpoint arrived as {type(checkpoint).__name__}, expected the path of a directory"
        )
    return Checkpoints(checkpoint, every)


def _shown(name: str, value: jax.Array) -> str:
    if value.size > 4:
        return f"{name}: {value.size:,} numbers"
    numbers = ", ".join(f"{v:.4g}" for v in np.asarray(value).ravel())
    return f"{name} = {numbers if value.ndim == 0 else f'[{numbers}]'}"


def _name(model: Any) -> str:
    if isinstance(model, AbstractTarget):
        model = getattr(model, "model", getattr(model, "fn", model))
    return getattr(model, "__name__", type(model).__name__)
