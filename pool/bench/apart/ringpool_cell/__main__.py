"""The program of a cell: python -P -m ringpool_cell SPEC FILE, which writes what it found to FILE, as JSON.

SPEC is JSON, one of these, and everywhere "limit": seconds.

    {"peer": "module:function", "workload": name, "settings": {...}}
    {"floors": path of ping-pong or null, "tasks": count or null}
    {"user": "module:function", "items": path, "peer": "module:function" or null, "settings": {...}}
"""

import faulthandler
import json
import os
import signal
import sys
import traceback
import warnings
from typing import Any

from . import floors, user
from .peers import NotAvailable
from .workloads import NAMED, Cell, Settings


# Whoever started this process kills it at its limit; this is for the case that he is dead himself.
BACKSTOP_SECONDS = 60.0


def outcome(spec: dict[str, Any]) -> dict[str, Any]:
    """What the cell found."""
    if "floors" in spec:
        return {"values": floors.measure(spec["floors"], spec["tasks"])}
    settings = Settings(**spec["settings"])
    cell = Cell(user.find_function(spec["peer"]), settings) if spec["peer"] else None
    if "user" in spec:
        return user.measure(cell, spec["user"], spec["items"], settings.seconds)
    assert cell is not None
    values = NAMED[spec["workload"]].measure(cell)
    return {"values": values, "tasks": cell.tasks}


def main() -> None:
    """Measure and write; what goes wrong is written too."""
    # Whoever started this process held it back, for himself.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # A pool that has threads forks: it is what a pool does.
    warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
    found: dict[str, Any]
    failed = False
    spec = json.loads(sys.argv[1])
    faulthandler.dump_traceback_later(spec["limit"] + BACKSTOP_SECONDS, exit=True)
    try:
        found = outcome(spec)
    except NotAvailable as error:
        found = {"na": str(error)}
    except user.FunctionFailed as error:
        found, failed = {"failed": str(error)}, True
    except BaseException as error:
        traceback.print_exc()
        found, failed = {"failed": f"{type(error).__name__}: {error}"}, True
    # Whoever reads sees nothing or all of it.
    part = f"{sys.argv[2]}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(found, file)
    os.replace(part, sys.argv[2])
    if failed:
        # Handlers at exit would wait for a pool that may never end.
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
