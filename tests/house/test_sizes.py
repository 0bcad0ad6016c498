"""Small enough to see: what outgrows this holds a second concept that wants a name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES, FUNCTION_LINES, COMMAND_LINES = 300, 50, 80
FILES = sorted([*(ROOT / "falcon_cli").rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
COMMANDS = [
    path for path in (ROOT / "falcon_cli" / "commands").glob("*.py") if path.name not in ("options.py", "shared.py")
]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_and_its_functions_are_small(path):
    source = path.read_text()
    assert len(source.splitlines()) <= FILE_LINES
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    lengths = {f"{node.name}:{node.lineno}": node.end_lineno - node.lineno + 1 for node in functions}
    assert {function: lines for function, lines in lengths.items() if lines > FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", COMMANDS, ids=name)
def test_a_command_is_a_thin_shell(path):
    assert len(path.read_text().splitlines()) <= COMMAND_LINES
