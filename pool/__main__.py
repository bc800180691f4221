"""The command line, `python -m pool`.

A subcommand is a module with `add_arguments(parser)` and `run(args) -> int`, where the int is the exit code; it is
added to the command line by its line in `COMMANDS`.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from pool import bench, demo
from pool.commandline import OneLineParser

COMMANDS = {
    "demo": (demo, "count identifiers in the standard library, on multiprocessing.Pool and on this one"),
    "bench": (bench, "what a task costs on multiprocessing.Pool and on this one, in a minute; or measure a function of your own"),
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `args.run` is the chosen subcommand, None without one."""
    parser = OneLineParser(prog="python -m pool", description="multiprocessing.Pool on shared-memory rings")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for bad arguments, 130 after Ctrl-C, 141 if nobody reads, else its own."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.run is None:
        parser.print_help()
        return 2
    try:
        code = args.run(args)
        if sys.stdout is not None:  # it is None where the program was started with it closed
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
