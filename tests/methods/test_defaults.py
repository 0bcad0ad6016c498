"""Which methods are taken where none is named."""

from falcon_cli.methods.defaults import DEFAULT_METHOD, default_methods
from falcon_cli.methods.grammar import choose
from falcon_cli.recipe.schema import GenerateRecipe, TargetRecipe

OTHER = TargetRecipe("other/model")
PLAIN = ("ar", "pld", "lookahead")
COPIES = ("falcon:copy=auto", "adaptive")


def test_trained_methods_are_compared_where_they_have_a_drafter(monkeypatch, tmp_path):
    plain = GenerateRecipe(OTHER)
    assert default_methods(plain) == (*PLAIN, "adaptive")
    given = GenerateRecipe(OTHER, drafter="folder")
    assert default_methods(given) == (*PLAIN, "falcon", *COPIES)
    monkeypatch.setattr(
        "falcon_cli.methods.defaults.shipped",
        lambda name, method: (
            tmp_path if (name, method) in (("other/model", "falcon"), ("other/model", "medusa")) else None
        ),
    )
    assert default_methods(plain) == (*PLAIN, "medusa", "falcon", *COPIES)
    assert default_methods(GenerateRecipe(TargetRecipe("another/model"))) == (*PLAIN, "adaptive")


def test_a_drafter_given_decides_the_method(tmp_path):
    (tmp_path / "config.json").write_text('{"method": "eagle", "format": 1}')
    given = GenerateRecipe(OTHER, drafter=str(tmp_path))
    assert default_methods(given) == (*PLAIN, "eagle", "adaptive")
    choose("eagle").check(given)
    choose(DEFAULT_METHOD).check(given)
