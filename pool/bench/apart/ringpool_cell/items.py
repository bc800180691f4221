"""The user's items: a text file, one item a line."""

import ast
import pathlib
from typing import Any


def parsed(line: str) -> Any:
    """The value if the line is a Python literal, else the line itself."""
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return line


def read_items(path: pathlib.Path) -> list[Any]:
    """All items of the file; raises OSError and UnicodeDecodeError."""
    return [parsed(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
