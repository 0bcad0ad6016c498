"""`python -m falcon_cli.studies NAME [KEY=VALUE ...]`: one command line for all studies.

NAME --help lists a study's keys. Exit codes and one-line errors are those of `falcon`; --debug shows tracebacks.
"""

import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from falcon_cli.console import emit, exit_code_of
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.schema import BenchRecipe
from falcon_cli.spelling import did_you_mean
from falcon_cli.studies import cost, families, profile, roofline
from falcon_cli.studies.quality import run as quality

COMMAND = "python -m falcon_cli.studies"
_HELP = {"-h", "--help"}


@dataclass(frozen=True)
class Study:
    """A study: what it shows, what it may be told, and how it runs."""

    summary: str
    recipe: type
    run: Callable[[Any], None]
    settings: tuple[str, ...] = ()
    """Defaults of this study where they are not the recipe's; what the user gives wins."""


STUDIES = {
    "cost": Study("what a forward costs by nodes and context", cost.CostRecipe, cost.run),
    "families": Study("which families of models falcon reads, and how", families.FamiliesRecipe, families.run),
    "profile": Study("where a cycle's time goes", BenchRecipe, profile.run, settings=("limit=2", "max_new_tokens=48")),
    "quality": Study(
        "what quantised weights cost in quality",
        quality.QualityRecipe,
        quality.run,
        settings=("limit=20", "max_new_tokens=128"),
    ),
    "roofline": Study("cost tables of published machines, not measured", roofline.RooflineRecipe, roofline.run),
}


def main(words: Sequence[str]) -> int:
    """Run one study, or show help; returns the exit code."""
    return exit_code_of(lambda: _run([word for word in words if word != "--debug"]), "--debug" in words)


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in _HELP:
        emit(_overview())
        return 0 if words else 2
    name, *settings = words
    if name not in STUDIES:
        raise UsageError(f'no study "{name}"{did_you_mean(name, STUDIES)}; {COMMAND} --help lists them')
    study = STUDIES[name]
    if _HELP & set(settings):
        emit(_page(name, study))
    else:
        study.run(_recipe(name, study, settings))
    return 0


def _recipe(name: str, study: Study, settings: Sequence[str]) -> Any:
    """The study's recipe.

    Raises:
        UsageError: A word is no KEY=VALUE.
        FalconError: A key is unknown, or its value does not fit.
    """
    where = f"{COMMAND} {name} --help lists the keys"
    for word in settings:
        if not word.partition("=")[1]:
            raise UsageError(f'"{word}" is no KEY=VALUE; {where}')
    try:
        return load_recipe(study.recipe, None, [*study.settings, *settings])
    except FalconError as error:
        # Recipes name the key as `falcon` takes it, behind --set.
        raise type(error)(f"{str(error).replace('--set ', '')}; {where}") from error


def _overview() -> str:
    lines = [f"Usage: {COMMAND} NAME [KEY=VALUE ...]", ""]
    lines += [f"  {name:<10}{study.summary}" for name, study in STUDIES.items()]
    return "\n".join([*lines, "", f"{COMMAND} NAME --help lists a study's keys."])


def _page(name: str, study: Study) -> str:
    rows = list(_keys(study.recipe, dict(setting.split("=", 1) for setting in study.settings)))
    width = max(len(head) for head, _ in rows) + 2
    lines = [f"Usage: {COMMAND} {name} [KEY=VALUE ...]", "", f"{study.summary}.", ""]
    return "\n".join([*lines, *(f"  {head:<{width}}{doc}".rstrip() for head, doc in rows)])


def _keys(recipe: Any, changed: dict[str, str], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each key as KEY=DEFAULT, with its doc; keys of a recipe inside a recipe are dotted."""
    docs = _docs(recipe)
    for field in dataclasses.fields(recipe):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        key = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(default):
            yield from _keys(type(default), changed, f"{key}.")
        elif default is dataclasses.MISSING:
            yield f"{key}=…", docs.get(field.name, "")
        else:
            yield f"{key}={changed.get(key, _yaml(default))}", docs.get(field.name, "")


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(_yaml, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _docs(recipe: type) -> dict[str, str]:
    """Field → the docstring below it, which Python itself drops; a recipe has the fields of those that it builds on."""
    docs: dict[str, str] = {}
    for base in recipe.__bases__:
        if dataclasses.is_dataclass(base):
            docs |= _docs(base)
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(recipe))).body
    for field, below in pairwise(definition.body if isinstance(definition, ast.ClassDef) else []):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                docs[name] = doc
    return docs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
