"""The command line's pages are its help, help is quick, one module prints, and tests mirror the package."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "falcon_cli"
MODULES = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
HEAVY = {"torch", "transformers", "matplotlib", "datasets", "numpy", "safetensors"}
TESTED_ELSEWHERE = {
    "__main__.py": "tests/commands/test_app.py",
    **{
        f"data/sets/{name}.py": "tests/data/sets/test_named_sets.py"
        for name in ("mt_bench", "humaneval", "gsm8k", "spec_bench", "math", "mbpp", "olmo")
    },
    "distill/run.py": "tests/commands/test_distill.py",
    "target/sharding.py": "tests/commands/test_distill.py",
    **{f"studies/quality/{name}.py": "tests/studies/quality/test_sandbox.py" for name in ("jail", "harness")},
}

_spec = importlib.util.spec_from_file_location("cli_pages", Path(__file__).with_name("cli_pages.py"))
cli_pages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cli_pages)


@pytest.mark.parametrize("name", cli_pages.COMMANDS)
def test_the_page_of_a_command_is_its_help(name):
    assert (cli_pages.FOLDER / f"{name}.md").read_text() == cli_pages.page(name), "run `make docs`"


def test_every_page_is_of_a_command_and_every_command_has_a_page():
    from falcon_cli.commands.app import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {path.stem for path in cli_pages.FOLDER.glob("*.md")} == cli_pages.COMMANDS.keys() == {"falcon", *commands}


@pytest.mark.parametrize(
    "words", [["--help"], ["distill", "--help"], ["generate", "--help"], ["bench", "--help"]], ids=" ".join
)
def test_help_imports_nothing_heavy(words):
    source = (
        f"import sys; sys.argv = ['falcon', *{words}]; from falcon_cli.commands.app import main; main(); "
        f"print(sorted(set(sys.modules) & {HEAVY}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_only_the_console_prints():
    printing = [
        f"{path}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse((PACKAGE / path).read_text()))
        if path.name != "console.py"
        and (
            (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
            or (isinstance(node, ast.Attribute) and node.attr in ("echo", "secho"))
            or (isinstance(node, ast.Attribute) and node.attr == "write" and "sys.std" in ast.unparse(node))
        )
    ]
    assert printing == []


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__init__.py"], ids=str)
def test_a_module_has_its_tests_in_the_mirrored_place(path):
    mirrored = ROOT / "tests" / path.with_name(f"test_{path.name}")
    elsewhere = TESTED_ELSEWHERE.get(str(path))
    assert mirrored.is_file() or (elsewhere is not None and (ROOT / elsewhere).is_file())


def test_no_module_is_excused_that_has_its_tests_or_is_gone():
    for name in TESTED_ELSEWHERE:
        assert (PACKAGE / name).is_file()
        assert not (ROOT / "tests" / Path(name).with_name(f"test_{Path(name).name}")).is_file()


def test_no_test_outlives_its_module():
    mirrored = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    excused = {"tests/" + str(path) for path in mirrored} & set(TESTED_ELSEWHERE.values())
    for path in mirrored:
        if path.parts[0] not in ("house", "lossless", "golden", "gpu") and f"tests/{path}" not in excused:
            assert (PACKAGE / path.with_name(path.name.removeprefix("test_"))).is_file(), path
