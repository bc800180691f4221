"""What the documents name is there."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def named_in(path):
    """The names of the tests of a file, as pytest has them but without parameters."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return {name for name in found if name.split("::")[-1].startswith("test_")}


@pytest.mark.parametrize("document", ["compatibility.md"])
def test_tests_that_are_named_exist(document):
    named = re.findall(r"`(tests/\w+\.py)::([\w:]+)`", (ROOT / "docs" / document).read_text())
    assert named
    assert [f"{file}::{name}" for file, name in named if name not in named_in(ROOT / file)] == []


def test_each_deviation_has_a_test():
    lines = (ROOT / "docs" / "compatibility.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|") and not re.match(r"\|(---|\W*$)", line)]
    assert len(rows) > 30
    assert [row for row in rows if "tests/" not in row and not row.endswith("| test |")] == []
