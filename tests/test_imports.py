"""What is imported when: a spawned worker waits for all that it imports, so it imports little; the package gives its names lazily."""

import multiprocessing.pool
import pickle
import subprocess
import sys

import pytest

import pool

# What the parent needs and a worker does not, dear to import.
DEAR = ("concurrent.futures", "logging", "multiprocessing.pool", "pool._dispatch", "pool._results", "pool.process_pool", "traceback")


def output_of(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["pool", "pool.worker"])
def test_what_a_worker_imports(module):
    program = f"import sys, multiprocessing.spawn; before = set(sys.modules); import {module}; print(*set(sys.modules) - before)"
    assert set(output_of(program).split()).isdisjoint(DEAR)


def test_the_class_alone_brings_no_machinery():
    # A main module that says `from pool import Pool` is imported by each spawned worker too.
    loaded = output_of("import sys; from pool import Pool; print(*sys.modules)").split()
    assert {"concurrent.futures", "pool._dispatch", "pool._results", "pool.supervisor"}.isdisjoint(loaded)


def test_names_of_the_package():
    assert set(pool.__all__) <= set(dir(pool))
    for name in pool.__all__:
        assert getattr(pool, name) is getattr(pool, name)
    assert pool.ApplyResult is pool.AsyncResult
    assert pool.MaybeEncodingError is multiprocessing.pool.MaybeEncodingError
    assert issubclass(pool.ThreadPool, pool.Pool)
    assert pickle.loads(pickle.dumps(pool.Pool)) is pool.Pool
    assert output_of("from pool import *; print(Pool.__name__, WorkerLostError.__name__)") == "Pool WorkerLostError"


def test_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'pool' has no attribute 'Loop'"):
        pool.Loop
    with pytest.raises(ImportError):
        exec("from pool import Loop")


def refuse_imports():
    """In a worker: nothing can be imported any more, as after a task that used up its descriptors."""
    for name in ("traceback", "multiprocessing.pool"):
        sys.modules[name] = None


def fail_without_imports(value):
    refuse_imports()
    raise ValueError(value)


def give_what_cannot_be_pickled(value):
    refuse_imports()
    return lambda: value


@pytest.mark.ringpool_only
def test_error_of_a_worker_that_can_import_nothing(factory):
    made = factory.Pool(1)
    with pytest.raises(ValueError, match="seven") as caught:
        made.apply(fail_without_imports, ("seven",))
    assert "in fail_without_imports" in str(caught.value.__cause__)
    with pytest.raises(multiprocessing.pool.MaybeEncodingError, match="Reason: .*lambda"):
        made.apply(give_what_cannot_be_pickled, (7,))
