"""Whether the kernel killed a process of this cgroup for lack of memory: what a SIGKILL from nowhere mostly is in a container.

A best effort: the kernel counts such kills, it does not tell who died. Read by the supervisor when a pool begins, and when a worker
was killed by SIGKILL.
"""

from pool._dispatch import read_small

ROOT = "/sys/fs/cgroup"


class OomWatch:
    """Compares the number of kills with what it was at the start. files: the counters to read, the first that is there counts."""

    def __init__(self, files=None):
        self._files = _counters() if files is None else files
        self._known = self._count()

    def struck(self):
        """True if the kernel has killed more processes than this has told of so far: to be asked once for each death."""
        count = self._count()
        if count is None or self._known is None or count <= self._known:
            return False
        self._known += 1
        return True

    def _count(self):
        for name in self._files:
            try:
                return _kills(read_small(name).decode("ascii", "replace"))
            except OSError:
                continue
        return None


def _kills(text):
    """The value of the line `oom_kill N`, which both versions of cgroups have; None if there is no such line."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == "oom_kill" and value.strip().isdigit():
            return int(value)
    return None


def _counters(membership="/proc/self/cgroup", root=ROOT):
    """Files in which the kills of this process's cgroup may be counted. A container may see its own cgroup as the root."""
    try:
        lines = [line.split(":", 2) for line in read_small(membership).decode("ascii", "replace").splitlines()]
    except OSError:
        return []
    found = []
    for number, controllers, path in (line for line in lines if len(line) == 3):
        if (number, controllers) == ("0", ""):
            found += [f"{root}{path.rstrip('/')}/memory.events", f"{root}/memory.events"]
        elif "memory" in controllers.split(","):
            found += [f"{root}/memory{path.rstrip('/')}/memory.oom_control", f"{root}/memory/memory.oom_control"]
    return found
