"""How much memory a pool's arena may have if nobody says: a share of the machine's, or of what this process's cgroup may have."""

import os

ROOT = "/sys/fs/cgroup"
SHARE = 2  # one part in so many
LEAST = 64 << 20


def default_arena_limit():
    """Bytes."""
    known = [limit for limit in (_machine(), *_cgroup_limits()) if limit]
    return max(LEAST, min(known, default=4 << 30) // SHARE)


def _machine():
    """Bytes of memory in the machine; None if it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _cgroup_limits(membership="/proc/self/cgroup", root=ROOT):
    """Bytes that this process's cgroup and those above it may have, of either version; without those that have no limit. A
    container may see its own cgroup as the root."""
    limits = []
    for folder, name in _places(membership, root):
        while True:
            limit = _number(f"{folder}/{name}")
            if limit is not None:
                limits.append(limit)
            if len(folder) <= len(root) or not folder.startswith(root):
                break
            folder = os.path.dirname(folder)
    return limits


def _places(membership, root):
    try:
        with open(membership) as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except (OSError, ValueError):
        return
    for number, controllers, path in (line for line in lines if len(line) == 3):
        if (number, controllers) == ("0", ""):
            yield f"{root}{path.rstrip('/')}", "memory.max"
        elif "memory" in controllers.split(","):
            yield f"{root}/memory{path.rstrip('/')}", "memory.limit_in_bytes"


def _number(name):
    """The number in a file; None if there is none. Version 1 has a number beyond all memory for 'no limit'."""
    try:
        with open(name) as file:
            text = file.read(64).strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdigit() and 0 < int(text) < 1 << 60 else None
