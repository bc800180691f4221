"""Two runs of run.py, row by row: python benchmarks/compare.py old.json new.json. Refuses runs of different machines."""

import sys
from collections.abc import Sequence

from pool.bench import report
from pool.commandline import OneLineParser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison; 2 if the two cannot be compared."""
    parser = OneLineParser(prog="compare.py", description="two runs of run.py on one machine, row by row")
    parser.add_argument("old")
    parser.add_argument("new")
    args = parser.parse_args(argv)
    try:
        print(report.compare(report.load(args.old), report.load(args.new)))
    except report.NotComparable as error:
        print(f"compare.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
