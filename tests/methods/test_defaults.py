"""Which methods are taken where none is named."""

from falcon_cli.methods.defaults import default_method, default_methods
from falcon_cli.methods.grammar import choose
from falcon_cli.recipe.schema import GenerateRecipe, TargetRecipe

OTHER = TargetRecipe("other/model")
PLAIN = ("ar", "pld", "lookahead")


def test_falcon_is_the_default_where_it_has_a_drafter(monkeypatch, tmp_path):
    plain = GenerateRecipe(OTHER)
    assert (default_method(plain), default_methods(plain)) == ("pld", PLAIN)
    given = GenerateRecipe(OTHER, drafter="folder")
    assert (default_method(given), default_methods(given)) == (
        "falcon:copy=auto",
        (*PLAIN, "falcon", "falcon:copy=auto"),
    )
    monkeypatch.setattr(
        "falcon_cli.methods.defaults.shipped",
        lambda name, method: (
            tmp_path if (name, method) in (("other/model", "falcon"), ("other/model", "medusa")) else None
        ),
    )
    assert default_method(plain) == "falcon:copy=auto"
    assert default_methods(plain) == (*PLAIN, "medusa", "falcon", "falcon:copy=auto")
    assert default_method(GenerateRecipe(TargetRecipe("another/model"))) == "pld"


def test_a_drafter_given_decides_the_method(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text('{"method": "eagle", "format": 1}')
    given = GenerateRecipe(OTHER, drafter=str(tmp_path))
    assert (default_method(given), default_methods(given)) == ("eagle", (*PLAIN, "eagle"))
    choose("eagle").check(given)
