"""The benchmark: every workload with next to no tasks, pools that lie, hang and crash, the reports, the command line.

No figure is looked at: what is tested is that wrong results are noticed, that all is shown, and that nothing is left behind.
"""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import xml.etree.ElementTree

import procfs
import pytest

from pool import bench
from pool.__main__ import main
from pool.bench import own, report
from pool.bench.apart.ringpool_cell import arrays, huge, items, workloads
from pool.bench.harness import PEERS, Run, run_cell

ROOT = pathlib.Path(__file__).parent.parent
TINY = workloads.Settings(tasks=40, many=3, largest=1_000, streamed=1_500, huge=1 << 20, idle_seconds=0.02)
# Only the extras have pandas.
NOT_HERE = set() if importlib.util.find_spec("pandas") else {arrays.FRAME}

FAKES = """
import multiprocessing.pool, os, subprocess, sys, time
from ringpool_cell.peers import NotAvailable

class Liar(multiprocessing.pool.ThreadPool):
    def __init__(self, processes, start_method):
        super().__init__(processes)

    def lying(self, function):
        return function if function.__name__ == "worker_pid" else lambda *args: (function(*args), "a lie")

    def apply(self, function, args):
        return self.apply_async(function, args).get()

    def apply_async(self, function, args):
        return super().apply_async(self.lying(function), args)

    def map(self, function, items, chunksize=None):
        return super().map(self.lying(function), items, chunksize)

    def starmap(self, function, items, chunksize=None):
        return super().starmap(self.lying(function), items, chunksize)

    def imap(self, function, items, chunksize=1, buffersize=None):
        return super().imap(self.lying(function), items, chunksize)

    def imap_unordered(self, function, items, chunksize=1):
        return super().imap_unordered(self.lying(function), items, chunksize)

class Forgetful(Liar):
    def lying(self, function):
        return function

    def map(self, function, items, chunksize=None):
        results = super().map(function, items, chunksize)
        return results if function.__name__ == "worker_pid" else results[:-1]

def hanging(processes, start_method):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(os.environ["HANGING_PID"], "w") as file:
        file.write(str(child.pid))
    time.sleep(600)

def crashing(processes, start_method):
    print("last words", flush=True)
    os._exit(3)

def absent(processes, start_method):
    raise NotAvailable("not installed")

class Poor(multiprocessing.pool.ThreadPool):
    def __init__(self, processes, start_method):
        super().__init__(processes)

    def starmap(self, *args, **options):
        raise NotAvailable("has no starmap")
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A folder on the path of cells, with the module fake_peers."""
    (tmp_path / "fake_peers.py").write_text(FAKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def measured(peers, chosen=workloads.WORKLOADS, settings=TINY, rounds=1, limit=60.0):
    run = Run(settings, chosen, peers, rounds, limit=limit)
    run.measure()
    return run


@pytest.mark.limit(120)
def test_every_workload_on_both_pools(tmp_path):
    run = measured(PEERS)
    assert not run.failed
    assert run.na == {("stream", "stdlib"): "imap has no buffersize"} | {
        (name, peer): "needs pandas" for name in NOT_HERE for peer in PEERS
    }
    found = report.build(run, report.machine())
    long_jobs = {workloads.growth_row(size) for size in workloads.GROWTH_SIZES if size > TINY.largest} | {workloads.GROWTH_COST}
    too_small = {huge.HUGE_MEMORY}
    names = {row.name for workload in workloads.WORKLOADS for row in workload.rows} - long_jobs - too_small
    assert {row["workload"] for row in found["workloads"]} == names
    for row in found["workloads"]:
        if row["workload"] in NOT_HERE:
            continue
        assert row["peers"]["ringpool"]["rounds"], row
        # What memory grew may be nothing.
        assert row["unit"] == "MiB" or row["peers"]["ringpool"]["median"] > 0, row
    assert any(name.startswith("pickle") for name in found["floors"])
    text = report.table(found)
    assert all(name in text for name in names)
    assert "n/a: imap has no buffersize" in text

    path = str(tmp_path / "report.json")
    report.save(found, path)
    assert report.load(path) == json.loads(json.dumps(found))
    assert "within the spread" in report.compare(report.load(path), report.load(path))


def test_lies_are_noticed(fakes):
    run = measured({"liar": "fake_peers:Liar"}, settings=TINY._replace(processes=1, many=1))
    assert {name for name, _ in run.failed} == set(workloads.NAMED) - NOT_HERE
    assert [reason for reason in run.failed.values() if not reason.startswith("WrongResults: ")] == []
    assert not run.values
    assert "FAILED: WrongResults" in report.table(report.build(run, report.machine()))


def test_missing_results_are_noticed(fakes):
    chosen = [workloads.NAMED["map chunksize=1, floats"]]
    run = measured({"forgetful": "fake_peers:Forgetful"}, chosen, TINY._replace(processes=1))
    assert list(run.failed.values()) == ["WrongResults: 39 results for 40 tasks"]


def test_a_pool_that_hangs_is_killed_with_all_that_it_started(fakes, monkeypatch):
    monkeypatch.setenv("HANGING_PID", str(fakes / "pid"))
    # A cell that needs longer to get there than its limit says nothing about what it started.
    for limit in (2.0, 10.0, 30.0):
        spec = {"peer": "fake_peers:hanging", "workload": "apply", "settings": TINY._asdict()}
        outcome = run_cell(spec, limit)
        assert outcome.failed == f"no end after {limit:.0f} s, killed"
        if (fakes / "pid").exists() and (fakes / "pid").read_text():
            break
    procfs.wait_until(lambda: procfs.is_gone(int((fakes / "pid").read_text())))


def test_what_goes_wrong_is_shown_and_not_tried_again(fakes):
    peers = {"absent": "fake_peers:absent", "crashing": "fake_peers:crashing", "poor": "fake_peers:Poor"}
    chosen = [workloads.NAMED["apply"], workloads.NAMED["starmap chunksize=1, pairs of ints"]]
    run = measured(peers, chosen, TINY._replace(processes=1), rounds=2)
    assert {key for key in run.failed} == {(one.name, "crashing") for one in chosen}
    assert run.failed["apply", "crashing"] == "ended with exit code 3: last words"
    assert run.na["apply", "absent"] == "not installed"
    assert run.na["starmap chunksize=1, pairs of ints", "poor"] == "has no starmap"
    assert len(run.values[workloads.APPLY, "poor"]) == 2
    text = report.table(report.build(run, report.machine()))
    assert "n/a: not installed" in text and "n/a: has no starmap" in text and "FAILED: ended with exit code 3" in text


def made_up(stdlib, ours):
    """A report of one workload with these values."""
    run = Run(TINY, [workloads.NAMED["apply_async flood, ints"]], PEERS, len(ours))
    for name, values in (("stdlib", stdlib), ("ringpool", ours)):
        run.values["apply_async flood, ints", name] = values
        run.tasks["apply_async flood, ints", name] = 10
    run.floors["plain call, ints"] = [0.05]
    return report.build(run, report.machine())


def test_losses_are_shown_like_wins():
    assert "0.500 x" in report.table(made_up([20.0, 30.0, 10.0], [10.0, 10.0, 12.0]))
    assert "2.00 x" in report.table(made_up([10.0], [20.0]))


def test_comparison():
    old, new = made_up([10.0, 11.0], [100.0, 110.0]), made_up([10.0, 10.5], [50.0, 55.0])
    new["machine"]["commit"] = "another"
    lines = report.compare(old, new).splitlines()
    assert any("ringpool" in line and line.endswith("worse") for line in lines)
    assert any("stdlib" in line and line.endswith("within the spread") for line in lines)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [(part, key, "other") for part, keys in (("machine", report.SAME_MACHINE), ("settings", report.SAME_SETTINGS)) for key in keys],
)
def test_comparison_refuses_other_machines_and_settings(part, key, value):
    old, new = made_up([10.0], [100.0]), made_up([10.0], [100.0])
    new[part][key] = value
    with pytest.raises(report.NotComparable, match=f"different {part}: {key}"):
        report.compare(old, new)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 1}', '{"format": 1, "machine": {}, "settings": {}, "workloads": []}', "\x00"])
def test_what_is_no_report(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(report.NotComparable):
        report.load(str(tmp_path / "report.json"))


def test_items(tmp_path):
    file = tmp_path / "items"
    file.write_text("1\n\n2.5\nhello world\n'a'\n[1, 2]\n1 +\n" + "(" * 500 + "\n")
    assert items.read_items(file) == [1, 2.5, "hello world", "a", [1, 2], "1 +", "(" * 500]


# The command line


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module and a file of items of the user's."""
    (tmp_path / "mine_to_measure.py").write_text(
        textwrap.dedent("""
            import multiprocessing, os, time
            def twice(x): return 2 * x
            def alone(x): return os.getpid()
            def tells(x): return multiprocessing.parent_process() is None
            def fails(x): return 1 / (x - 3)
            seen = {}
            def remembers(x):
                if x not in seen:
                    time.sleep(0.002)
                return seen.setdefault(x, x)
            def appends(x):
                x.append(1)
                return x
            def bad_text(x): raise ValueError("\\udc80" + str(multiprocessing.parent_process()))
            number = 7
        """)
    )
    (tmp_path / "broken_to_import.py").write_text("1 / 0\n")
    (tmp_path / "items").write_text("\n".join(map(str, range(20))))
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "SHORT_SECONDS", 0.01)
    yield tmp_path
    for name in ("mine_to_measure", "broken_to_import"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine_to_measure"], "not of the form module:function"),
        (["no_such_module:f", "--items", "items"], "ModuleNotFoundError"),
        (["broken_to_import:f", "--items", "items"], "ZeroDivisionError"),
        (["mine_to_measure:nothing", "--items", "items"], "AttributeError"),
        (["mine_to_measure:number", "--items", "items"], "not a function"),
        (["mine_to_measure:twice"], "belong together"),
        (["--items", "items"], "belong together"),
        (["mine_to_measure:twice", "--items", "missing"], "No such file"),
        (["mine_to_measure:twice", "--items", "empty"], "has no items"),
        (["mine_to_measure:twice", "--items", "binary"], "is not UTF-8 text"),
        (["mine_to_measure:twice", "--items", "/dev/zero"], "is a device"),
        (["--rounds", "0"], "at least 1"),
        (["--rounds", "x"], "not a whole number"),
        (["--processes", "1000000"], "too large"),
        (["--start-method", "nope"], "unknown start method"),
        (["--limit", "0"], "at least 1"),
        (["--json", "no/such/folder"], "cannot write"),
    ],
)
def test_bad_arguments(mine, capsys, arguments, message):
    try:
        code = main(["bench", *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("python -m pool bench: error: ") and error.count("\n") == 1


def test_own_function(mine, capsys):
    assert main(["bench", "mine_to_measure:twice", "--items", "items", "--rounds", "1", "--json", "out.json"]) == 0
    out = capsys.readouterr().out
    for label in ("plain loop", "stdlib, map", "stdlib, imap_unordered", "ringpool, map", "ringpool, imap_unordered"):
        assert label in out
    assert any(verdict in out for verdict in ("No pool helps", "Switching", "Too noisy"))
    assert "not compared" not in out
    found = json.loads(pathlib.Path("out.json").read_text())
    assert found["results_compared"] and not found["failed"]


def test_own_function_whose_results_differ_by_process(mine, capsys):
    assert main(["bench", "mine_to_measure:alone", "--items", "items", "--rounds", "1"]) == 0
    assert "results were not compared" in capsys.readouterr().out


def test_own_function_with_other_results_in_a_pool(mine, capsys):
    assert main(["bench", "mine_to_measure:tells", "--items", "items", "--rounds", "1"]) == 1
    out = capsys.readouterr().out
    assert "stdlib FAILED: its results are not those of the plain loop; both pools: the function may keep a state" in out
    assert "No verdict" in out


def test_own_function_that_remembers(mine, capsys):
    assert main(["bench", "mine_to_measure:remembers", "--items", "items", "--rounds", "1"]) == 0
    assert "the function remembers, so first passes are shown" in capsys.readouterr().out


def test_own_function_that_changes_its_items(mine, capsys):
    (mine / "items").write_text("[1, 2]\n" * 20)
    assert main(["bench", "mine_to_measure:appends", "--items", "items", "--rounds", "1"]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_own_function_whose_error_is_no_text(mine, capsys):
    assert main(["bench", "mine_to_measure:bad_text", "--items", "items", "--rounds", "1"]) == 1
    assert "raised ValueError: \\udc80None for item 1, 0" in capsys.readouterr().err


def test_own_function_that_raises(mine, capsys):
    assert main(["bench", "mine_to_measure:fails", "--items", "items", "--rounds", "1"]) == 1
    assert "raised ZeroDivisionError: division by zero for item 4, 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loop", "stdlib", "ours", "start"),
    [
        (9.0, [4.0, 4.1], [1.0, 1.1], "Switching helps"),
        (9.0, [1.0, 1.1], [4.0, 4.1], "Switching does not help"),
        (9.0, [4.0, 4.1], [4.0, 4.1], "Switching makes no difference"),
        (9.0, [4.0, 9.0], [3.0, 5.0], "Too noisy to tell"),
        (0.5, [4.0, 4.1], [1.0, 1.1], "No pool helps"),
    ],
)
def test_verdict(loop, stdlib, ours, start):
    seconds = {(own.LOOP, "loop"): [loop], ("stdlib", "map"): stdlib, ("stdlib", "imap_unordered"): [99.0]}
    assert own.verdict(seconds | {("ringpool", "map"): ours}).startswith(start)
    assert own.verdict(seconds) == "No verdict: a pool failed."


def test_short_version(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SHORT", ("map chunksize=1, floats",))
    monkeypatch.setattr(bench, "SHORT_SECONDS", 0.01)
    path = tmp_path / "out.json"
    assert main(["bench", "--rounds", "1", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "map chunksize=1, floats" in out and "ringpool" in out and "Python" in out
    assert report.load(str(path))["settings"]["rounds"] == 1


def test_the_short_version_names_workloads_that_exist():
    assert set(workloads.SHORT) <= set(workloads.NAMED)


def test_ctrl_c_ends_the_cells_too(fakes):
    (fakes / "forever.py").write_text("import time\ndef nap(x): time.sleep(600)\n")
    (fakes / "items").write_text("1\n2\n")
    command = [sys.executable, "-m", "pool", "bench", "forever:nap", "--items", str(fakes / "items")]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(fakes)]))
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        # In sessions of their own, which nothing else that it starts has.
        def cells_of_it():
            return [one.pid for one in procfs.descendants(process.pid) if one.session == one.pid]

        cells = procfs.wait_until(cells_of_it, 30)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        procfs.wait_until(lambda: all(map(procfs.is_gone, cells)))
    finally:
        process.kill()
        process.wait()


# The scripts in benchmarks/


def script(name, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )


def test_runner_comparison_and_picture(tmp_path):
    numbers, picture = tmp_path / "numbers.json", tmp_path / "picture.svg"
    options = ["--rounds", 1, "--seconds", 0.01, "--json", numbers]
    done = script("run.py", "--peers", "stdlib,ringpool,ProcessPoolExecutor", "--only", "chunksize=1, 3-key dicts", *options)
    assert done.returncode == 0, done.stderr
    assert "12 x the stdlib" in done.stdout
    found = report.load(str(numbers))
    (row,) = found["workloads"]
    assert all(row["peers"][name]["rounds"] for name in ("stdlib", "ringpool", "ProcessPoolExecutor"))

    assert script("compare.py", numbers, numbers).returncode == 0
    found["machine"]["cpu"] = "another"
    report.save(found, str(tmp_path / "other.json"))
    refused = script("compare.py", numbers, tmp_path / "other.json")
    assert refused.returncode == 2 and "different machine: cpu" in refused.stderr

    assert script("picture.py", numbers, picture).returncode == 0
    texts = {element.text for element in xml.etree.ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")}
    assert {"map chunksize=1, 3-key dicts", "stdlib", "ringpool", "ProcessPoolExecutor"} <= texts


@pytest.mark.parametrize(
    "arguments", [["--peers", "nobody"], ["--only", "no such workload"], ["--seconds", "nan"], ["--largest", "0"]]
)
def test_bad_arguments_of_the_runner(arguments):
    done = script("run.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("run.py: error: ") and done.stderr.count("\n") == 1


def test_every_target_names_a_row():
    done = subprocess.run(
        [sys.executable, "-c", "import targets; print(*(target.row for target in targets.TARGETS), sep='\\n')"],
        cwd=ROOT / "benchmarks",
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    named = set(done.stdout.splitlines())
    assert named and named <= {row.name for workload in workloads.WORKLOADS for row in workload.rows}
