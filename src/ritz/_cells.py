"""Where the fits of a sweep are made: here, in processes of their own, or on a Ray cluster."""

import multiprocessing
import pickle
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import jax

from ritz._errors import RitzError
from ritz.fit import fit

# Of the parent's settings, what decides on the bits of a fit, and where programs are kept.
_CONFIG = ("jax_enable_x64", "jax_default_matmul_precision", "jax_compilation_cache_dir")
LOST = (
    "a process of the sweep was killed (out of memory?) or could not start (in a script, call "
    "ritz.sweep below: if __name__ == '__main__':); call the sweep again for what is missing"
)


def made(model: Any, data: Any, options: dict[str, Any], path: str) -> str:
    """Make one fit and save it; the error in a line, where there is one."""
    try:
        with warnings.catch_warnings():
            # The table says so.
            warnings.filterwarnings("ignore", "step .* is not finite", RuntimeWarning)
            found = fit(model, data, **options, progress=False)
            if found.stop_reason == "interrupted":  # is no fit that a table should hold
                raise KeyboardInterrupt
            found.save(path)
    except Exception as error:  # a model may raise anything, which must not cost the others
        name = "" if isinstance(error, RitzError) else f"{type(error).__name__}: "
        return name + " ".join(str(error).split())
    return ""


def packed(model: Any, data: Any, options: dict[str, Any], path: str) -> bytes:
    """What another process needs to make a fit."""
    try:
        return pickle.dumps((model, data, options, path))
    except Exception as error:  # each class has its own
        reason = " ".join(str(error).split())
        raise RitzError(
            f"sweep: the model, its data or options cannot be sent to another process ({reason}); "
            "define them at the top of a module, or use processes=1"
        ) from error


def _work(given: bytes, config: dict[str, Any]) -> str:
    """In another process: make one fit."""
    for name, value in config.items():
        jax.config.update(name, value)
    try:
        parts = pickle.loads(given)
    except Exception as error:
        reason = " ".join(str(error).split())
        return (
            f"the model cannot be imported in another process ({reason}); define it in a module, "
            "or use processes=1"
        )
    return made(*parts)


def _config() -> dict[str, Any]:
    return {name: getattr(jax.config, name) for name in _CONFIG}


def by_processes(sent: dict[int, bytes], processes: int) -> dict[int, str]:
    """The errors of fits in processes of their own."""
    context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would lose
    pool = ProcessPoolExecutor(min(processes, len(sent)), context)
    try:
        waiting = {pool.submit(_work, given, _config()): i for i, given in sent.items()}
        wait(waiting)
        return {i: LOST if _broke(done) else done.result() for done, i in waiting.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _broke(done: Future[str]) -> bool:
    return isinstance(done.exception(), BrokenProcessPool)


def by_ray(sent: dict[int, bytes]) -> dict[int, str]:
    """The errors of fits on a Ray cluster."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise RitzError(
            "sweep: processes='ray' needs Ray, which is not installed; pip install 'ritz[ray]'"
        ) from None
    remote = ray.remote(_work)
    waiting = {i: remote.remote(given, _config()) for i, given in sent.items()}
    return {i: _answer(ray, reference) for i, reference in waiting.items()}


def _answer(ray: Any, reference: Any) -> str:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:  # a machine that is gone must not cost the others
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
