"""Groups of options belong to one place each, and every option of the target is a key of its recipe."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest

from falcon_cli.commands import options
from falcon_cli.commands.shared import _RENAMED
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.sources import built_in_targets


def test_every_option_of_the_target_is_a_key_of_its_recipe():
    keys = {_RENAMED.get(name, name) for name in options.TARGET}
    assert keys <= {field.name for field in fields(TargetRecipe)}
    assert options.READING.items() < options.TARGET.items()


def test_no_option_is_in_two_groups():
    groups = (options.TARGET, options.DRAFTING, options.RECIPE)
    assert len({name for group in groups for name in group}) == sum(map(len, groups))


def completed(words: str) -> list[str]:
    """What a shell is given for a command line whose last word is still being typed."""
    source = (
        "import sys\nfrom falcon_cli.commands.app import main\ntry:\n    main()\n"
        "finally:\n    print(sorted(set(sys.modules) & {'torch', 'transformers', 'numpy'}), file=sys.stderr)"
    )
    asked = {"_FALCON_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", source], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n"
    return done.stdout.split()


@pytest.mark.parametrize("command", ["generate", "bench", "distill", "tune-tree"])
def test_a_shell_completes_built_in_targets_and_loads_nothing_heavy(command):
    names = list(built_in_targets())
    assert completed(f"falcon {command} --target ") == names
    assert completed(f"falcon {command} --target qwen") == [name for name in names if name.startswith("qwen")]
