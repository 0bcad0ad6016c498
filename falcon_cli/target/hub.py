"""Models that are not on this machine, and why one cannot be loaded, in one line."""

from collections.abc import Iterator
from pathlib import Path

from falcon_cli.errors import first_line
from falcon_cli.sources import built_in_names


def why_not_loaded(where: str, error: Exception, what: str) -> str:
    """One line on a model that transformers could not load.

    Args:
        where: Folder or hub id.
        error: What transformers or huggingface_hub raised.
        what: What the model should have been, with its article.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if Path(where).exists():
        return f"{where}: cannot be loaded as {what} ({first_line(error)})"
    causes = list(_causes(error))
    kinds = tuple(type(cause) for cause in causes)
    status = next((cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    if GatedRepoError in kinds or status == 403:
        return (
            f"{where}: the hub gives this model only to those who have accepted its licence: accept it on the model's "
            "page, then log in with hf auth login"
        )
    if RepositoryNotFoundError in kinds or status == 401:
        return (
            f"{where}: the hub has no such model, or it is a private one: check the name{_or_built_in(where)}, "
            "or log in with hf auth login"
        )
    if RevisionNotFoundError in kinds:
        return f"{where}: the model on the hub has no such revision: check --revision"
    if "connect" in str(error).lower() or "offline" in str(error).lower():
        return (
            f"{where}: the model hub cannot be reached and it is not in the local cache; give a local folder or .gguf"
            + _or_built_in(where)
        )
    return f"{where}: cannot be loaded from the model hub ({first_line(error)})"


def _or_built_in(where: str) -> str:
    """Hub ids without an organisation are rare: the user may have meant one of ours."""
    return "" if "/" in where else f", or give {built_in_names()}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
