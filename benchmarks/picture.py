"""A run of run.py as a picture: python benchmarks/picture.py numbers.json picture.svg

Bars, one a pool, in groups by workload: tasks a second, on a logarithmic axis. Slower pools are drawn like faster ones, and the
machine stands below.
"""

import math
import sys
from collections.abc import Sequence
from html import escape
from typing import Any

from pool.bench import report
from pool.bench.harness import OURS, STDLIB
from pool.commandline import OneLineParser

WORKLOADS = (
    "map chunksize=1, ints",
    "map chunksize=1, 3-key dicts",
    "map chunksize=1, a dataclass",
    "imap chunksize=1, ints",
    "apply round trip, p50",
    "apply_async flood, ints",
    "map default chunks, 10^6 ints",
)
LEFT, WIDTH, RIGHT, BAR, GAP, TOP, BOTTOM = 150, 560, 90, 11, 26, 40, 66
COLOURS = {OURS: "#c2410c", STDLIB: "#1d4ed8"}
OTHER = "#9ca3af"


def tasks_a_second(row: dict[str, Any], found: dict[str, Any]) -> float | None:
    """What the bar shows."""
    taken = report.microseconds(row["unit"], found["median"]) if "median" in found else None
    return 1e6 / taken if taken else None


def text(x: float, y: float, content: str, anchor: str = "start", extra: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(content)}</text>'


def draw(found: dict[str, Any]) -> str:
    """The picture as SVG; raises ValueError if nothing that it shows was measured."""
    groups = []
    for row in (row for name in WORKLOADS for row in found["workloads"] if row["workload"] == name):
        bars = [(name, one, tasks_a_second(row, one)) for name, one in row["peers"].items()]
        if any(value for _, _, value in bars):
            groups.append((row["workload"], bars))
    values = [value for _, bars in groups for _, _, value in bars if value]
    if not values:
        raise ValueError("nothing was measured that the picture shows")
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    # One value alone still needs an axis.
    high = max(high, low + 1)

    def across(value: float) -> float:
        return LEFT + WIDTH * (math.log10(value) - low) / (high - low)

    height = TOP + sum(GAP + BAR * len(bars) for _, bars in groups) + BOTTOM
    width = LEFT + WIDTH + RIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="10">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(LEFT, 18, "tasks a second (logarithmic)", extra=' font-size="13"'),
    ]
    bottom = height - BOTTOM
    for power in range(low, high + 1):
        x = across(10**power)
        lines.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#e5e7eb"/>')
        lines.append(text(x, bottom + 14, report.short(10.0**power), "middle"))
    y = TOP
    for workload, bars in groups:
        y += GAP
        lines.append(text(LEFT, y - 6, workload, extra=' font-weight="bold"'))
        for name, one, value in bars:
            lines.append(text(LEFT - 6, y + BAR - 2, name, "end"))
            if value:
                length = max(across(value) - LEFT, 1.0)
                colour = COLOURS.get(name, OTHER)
                lines.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{colour}"/>')
                lines.append(text(LEFT + length + 4, y + BAR - 2, report.short(value)))
            else:
                lines.append(
                    text(
                        LEFT + 4, y + BAR - 2, "failed" if "failed" in one else f"n/a: {one.get('na', '')}", extra=' fill="#6b7280"'
                    )
                )
            y += BAR
    settings, host = found["settings"], found["machine"]
    notes = (
        f"medians of {settings['rounds']} interleaved rounds, {settings['processes']} workers, {settings['start_method']}",
        f"{host['cpu']}, {host['cores']} cores, Linux {host['kernel']}, Python {host['python']} ({host['compiler']})",
        f"ringpool {host['ringpool']}, commit {host['commit'] or 'unknown'}",
    )
    lines += [text(LEFT, bottom + 30 + 13 * number, note, extra=' fill="#6b7280"') for number, note in enumerate(notes)]
    return "\n".join([*lines, "</svg>", ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture; 2 if there is nothing to draw."""
    parser = OneLineParser(prog="picture.py", description="a run of run.py as an SVG picture")
    parser.add_argument("report")
    parser.add_argument("picture")
    args = parser.parse_args(argv)
    try:
        drawn = draw(report.load(args.report))
        with open(args.picture, "w", encoding="utf-8") as file:
            file.write(drawn)
    except (report.NotComparable, ValueError, OSError) as error:
        print(f"picture.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
