"""Which methods are taken where the user names none."""

from pathlib import Path

from falcon_cli.drafters.saved.checkpoint import read_config, shipped
from falcon_cli.drafters.saved.trained import TRAINED
from falcon_cli.errors import FalconError
from falcon_cli.methods.context import DraftSources

_UNTRAINED = ("ar", "pld", "lookahead")
_WITH_COPIES = "falcon:copy=auto"
DEFAULT_METHOD = "adaptive"
"""What `generate` drafts with: copies, the trees of a drafter where there is one, or neither."""


def default_methods(sources: DraftSources) -> tuple[str, ...]:
    """What `bench` compares: trained methods are among them where they have a drafter."""
    trained = _with_drafter(sources)
    return (*_UNTRAINED, *trained, *((_WITH_COPIES,) if "falcon" in trained else ()), DEFAULT_METHOD)


def _with_drafter(sources: DraftSources) -> tuple[str, ...]:
    """The trained methods that have a drafter, given or shipped."""
    given = _method_of(sources.drafter) if sources.drafter else None
    return tuple(name for name in TRAINED if name == given or shipped(sources.target.model, name))


def _method_of(folder: str) -> str:
    """The method that a drafter's folder is for; falcon where it cannot be read, as `MethodChoice.check` will say."""
    try:
        return str(read_config(Path(folder).expanduser())["method"])
    except FalconError:
        return "falcon"
