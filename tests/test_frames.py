"""Dataframes and arrow tables. They need the extra `frames`, too large for every run: with --slow its absence is a failure."""

import datetime

import large_tasks
import numpy
import pytest

ROWS = 50_000

pytestmark = [pytest.mark.slow, pytest.mark.start_methods("fork", "spawn")]


def of_pandas():
    import pandas

    yield pandas.DataFrame({f"column {number}": numpy.full(ROWS, float(number)) for number in range(10)})
    yield pandas.DataFrame(
        {
            "number": numpy.arange(ROWS),
            "text": ["text", "other"] * (ROWS // 2),
            "time": pandas.date_range(datetime.date(2020, 1, 1), periods=ROWS, freq="s"),
            "kind": pandas.Categorical(["a", "b"] * (ROWS // 2)),
        },
        index=numpy.arange(ROWS)[::-1],
    )
    yield pandas.Series(numpy.arange(ROWS) / 3, name="thirds")


def of_arrow():
    import pyarrow

    table = pyarrow.table({"number": numpy.arange(float(ROWS)), "text": ["text", None] * (ROWS // 2)})
    yield table
    yield table.slice(10, 1000)
    yield table.to_batches()[0]
    yield table.column("text")
    yield pyarrow.array([1, None, 3] * ROWS)


@pytest.mark.parametrize("kind", [of_pandas, of_arrow])
def test_they_arrive_as_they_were(factory, kind):
    with factory.Pool(2) as pool:
        for frame in kind():
            for back in (pool.apply(large_tasks.echo, (frame,)), *pool.map(large_tasks.echo, [frame] * 3, 1)):
                assert type(back) is type(frame) and back.equals(frame)


def test_tasks_have_frames_of_their_own(factory):
    frame = next(of_pandas())
    with factory.Pool(2) as pool:
        assert pool.map(large_tasks.first_cell_overwritten, [frame] * 4, 1) == [(0.0, 9.0)] * 4
        back = pool.apply(large_tasks.echo, (frame,))
        back.iloc[0, 0] = 5.0
        assert frame.iloc[0, 0] == 0.0


@pytest.mark.ringpool_only
@pytest.mark.parametrize("kind", [of_pandas, of_arrow])
def test_they_are_shared(factory, kind):
    with factory.Pool(2) as pool:
        for frame in kind():
            with pool.share(frame) as handle:
                assert all(back.equals(frame) for back in pool.map(large_tasks.echo, [handle] * 4, 1))
