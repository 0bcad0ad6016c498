"""The house's floors: imports only go down, and in one form.

8  commands studies
7  distill tune_tree bench generate
6  methods
5  costs
4  drafters
3  target decode                    decode knows neither target nor drafters
2  core kv_cache attention native data
1  tree recipe sources console
0  errors spelling

Wings have inner floors, from the lowest up:

drafters   shared · falcon · rivals · adaptive saved
methods    context · build · adaptive · table · grammar defaults
distill    folder kernel_copy · corpus · features · objective · students · training · estimate prepare trial · run
bench      figures · measuring · reports · folder · run · suite
tune_tree  measure · search · folder entries result · calibration · report · run
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "falcon_cli"
FLOORS = [
    {"falcon_cli", "errors", "spelling"},
    {"tree", "recipe", "sources", "console"},
    {"core", "kv_cache", "attention", "native", "data"},
    {"target", "decode"},
    {"drafters"},
    {"costs"},
    {"methods"},
    {"distill", "tune_tree", "bench", "generate"},
    {"commands", "studies", "__main__"},
]
INNER = {
    "drafters": [{"shared"}, {"falcon"}, {"rivals"}, {"adaptive", "saved"}],
    "methods": [{"context"}, {"build"}, {"adaptive"}, {"table"}, {"grammar", "defaults"}],
    "distill": [
        {"folder", "kernel_copy"},
        {"corpus"},
        {"features"},
        {"objective"},
        {"students"},
        {"training"},
        {"estimate", "prepare", "trial"},
        {"run"},
    ],
    "bench": [{"figures"}, {"measuring"}, {"reports"}, {"folder"}, {"run"}, {"suite"}],
    "tune_tree": [{"measure"}, {"search"}, {"folder", "entries", "result"}, {"calibration"}, {"report"}, {"run"}],
}
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
INNER_FLOOR_OF = {
    (wing, room): floor for wing, floors in INNER.items() for floor, rooms in enumerate(floors) for room in rooms
}
MOST_FILES = 12
FORBIDDEN = {("decode", "target"), ("decode", "drafters")}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


class Import(NamedTuple):
    """`line` of `module` imports `goal`, one of our modules."""

    module: str
    line: int
    goal: str
    well_formed: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.goal}"


def room(module: str) -> str:
    """The folder, or the file right under the package, that a module lives in."""
    return module.split(".")[1] if "." in module else module


def inner(module: str) -> tuple[str, str] | None:
    """The room of a wing with inner floors that a module lives in."""
    parts = module.split(".")
    return (parts[1], parts[2]) if len(parts) > 2 and parts[1] in INNER else None


def imports(module: str, source: str) -> Iterator[Import]:
    """Every import of our own modules, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            goals = [alias.name for alias in node.names if alias.name.split(".")[0] == "falcon_cli"]
            yield from (Import(module, node.lineno, goal, False) for goal in goals)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                yield Import(module, node.lineno, "." * node.level + base, False)
            elif base.split(".")[0] == "falcon_cli":
                names = [f"{base}.{alias.name}" for alias in node.names]
                yield from (Import(module, node.lineno, name if name in MODULES else base, True) for name in names)


ALL = [found for module, path in MODULES.items() for found in imports(module, path.read_text())]


def test_every_module_has_a_floor():
    assert {room(module) for module in MODULES} <= FLOOR_OF.keys()


def test_our_own_modules_are_imported_in_one_form():
    assert [str(found) for found in ALL if not found.well_formed] == []


def test_imports_never_go_up():
    ups = [found for found in ALL if found.well_formed and FLOOR_OF[room(found.goal)] > FLOOR_OF[room(found.module)]]
    assert [str(found) for found in ups] == []


def test_every_room_of_a_wing_has_an_inner_floor():
    assert {inner(module) for module in MODULES} - {None} <= INNER_FLOOR_OF.keys()


def test_imports_inside_a_wing_never_go_up():
    pairs = [(found, inner(found.module), inner(found.goal)) for found in ALL if found.well_formed]
    inside = [(found, here, there) for found, here, there in pairs if here and there and here[0] == there[0]]
    assert inside
    assert [str(found) for found, here, there in inside if INNER_FLOOR_OF[there] > INNER_FLOOR_OF[here]] == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_a_folder_can_be_taken_in_at_a_glance(folder):
    assert len(list(folder.glob("*.py"))) <= MOST_FILES


def test_decode_knows_the_target_and_the_drafter_only_by_protocol():
    assert [str(found) for found in ALL if (room(found.module), room(found.goal)) in FORBIDDEN] == []


def folder(module: str) -> str:
    """The folder of a module; a file right inside a wing with rooms counts as a room of its own."""
    depth = 3 if room(module) in INNER else 2
    return ".".join(module.split(".")[:depth])


@pytest.mark.parametrize("place", [lambda module: module, folder, room], ids=["modules", "folders", "rooms"])
def test_imports_go_in_no_circle(place):
    goals: dict[str, set[str]] = {}
    for found in ALL:
        goals.setdefault(place(found.module), set()).add(place(found.goal))
    goals = {start: {goal for goal in ends if goal != start} for start, ends in goals.items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " imports ".join([*way[way.index(module) :], module])
        if module not in done:
            for goal in goals.get(module, ()):
                visit(goal, (*way, module))
            done.add(module)

    for start in goals:
        visit(start, ())


@pytest.mark.parametrize(
    ("source", "goal", "well_formed"),
    [
        ("from falcon_cli.core import Draft", "falcon_cli.core", True),
        ("from falcon_cli import core", "falcon_cli.core", True),
        ("def lazy():\n    from falcon_cli.bench.run import bench", "falcon_cli.bench.run", True),
        ("import falcon_cli.core", "falcon_cli.core", False),
        ("from .core import Draft", ".core", False),
        ("from .. import core", "..", False),
    ],
)
def test_the_reader_of_imports_sees(source, goal, well_formed):
    (found,) = imports("falcon_cli.x", source)
    assert (found.goal, found.well_formed) == (goal, well_formed)
