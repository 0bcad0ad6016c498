"""What recipes check of themselves is said in one line that names the key."""

from dataclasses import dataclass
from typing import Literal

import pytest

from falcon_cli.errors import FalconError
from falcon_cli.recipe.checks import Recipe, at_least, within


@dataclass(frozen=True)
class Bird(Recipe):
    kind: Literal["falcon", "eagle"] = "falcon"
    wings: int | None = 2
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "wings")
        within(self, 0, 1, "share")


@dataclass(frozen=True)
class Chick(Bird):
    age: Literal["new", "old"] = "new"


@pytest.mark.parametrize(
    ("bird", "values", "message"),
    [
        (Bird, {"kind": "hydra"}, "^kind must be one of falcon, eagle, not hydra$"),
        (Chick, {"kind": "hydra"}, "^kind must be one of falcon, eagle, not hydra$"),
        (Chick, {"age": "older"}, "^age must be one of new, old, not older$"),
        (Bird, {"wings": 0}, "^wings must be at least 1, not 0$"),
        (Bird, {"share": 1.5}, "^share must be between 0 and 1, not 1.5$"),
    ],
)
def test_a_wrong_value_is_named(bird, values, message):
    with pytest.raises(FalconError, match=message):
        bird(**values)


def test_right_values_and_none_pass():
    assert Chick("eagle", None, 1.0, "old").age == "old"
