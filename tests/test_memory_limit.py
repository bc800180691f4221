"""How much memory an arena may have: read from files as both versions of cgroups have them."""

import pytest

from pool import memory_limit


def limits(tmp_path, membership, files):
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return sorted(memory_limit._cgroup_limits(str(tmp_path / "membership"), str(tmp_path / "root")))


CASES = {
    "version 2": ("0::/a/b\n", {"root/a/b/memory.max": "5000\n", "root/a/memory.max": "max\n"}, [5000]),
    "a parent has less": ("0::/a/b\n", {"root/a/b/memory.max": "5000\n", "root/a/memory.max": "4000\n"}, [4000, 5000]),
    "a container sees itself as the root": ("0::/\n", {"root/memory.max": "7000\n"}, [7000]),
    "version 1": (
        "5:cpu,memory:/x\n4:cpu:/y\n",
        {"root/memory/x/memory.limit_in_bytes": "6000\n", "root/memory/memory.limit_in_bytes": "9223372036854771712\n"},
        [6000],
    ),
    "no controller": ("0::/a\n3:cpu:/b\n", {}, []),
    "nonsense": ("what\n0::/a\n", {"root/a/memory.max": "-5\n", "root/memory.max": "\n"}, []),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_limits_of_cgroups(tmp_path, case):
    membership, files, expected = case
    assert limits(tmp_path, membership, files) == expected


def test_without_any_file(tmp_path):
    assert list(memory_limit._cgroup_limits(str(tmp_path / "nothing"), str(tmp_path))) == []


def test_the_share_of_the_least_of_them(monkeypatch):
    for machine, cgroups, expected in (
        (8 << 30, [], 4 << 30),
        (8 << 30, [2 << 30, 3 << 30], 1 << 30),
        (None, [], 2 << 30),
        (1 << 20, [], 64 << 20),
    ):
        monkeypatch.setattr(memory_limit, "_machine", lambda value=machine: value)
        monkeypatch.setattr(memory_limit, "_cgroup_limits", lambda value=cgroups: value)
        assert memory_limit.default_arena_limit() == expected
