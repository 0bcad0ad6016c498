"""Models that are not on this machine, and why one cannot be loaded, in one line."""

from collections.abc import Iterator
from pathlib import Path

from falcon_cli.errors import first_line


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
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return _closed(where)
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            f"{where}: the hub has no such model, or it is a private one: check the name, or log in with hf auth login"
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"{where}: the model on the hub has no such revision: check --revision"
    if any(isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403) for cause in causes):
        return _closed(where)
    if "connect" in str(error).lower() or "offline" in str(error).lower():
        return (
            f"{where}: the model hub cannot be reached and it is not in the local cache; give a local folder or .gguf"
        )
    return f"{where}: cannot be loaded from the model hub ({first_line(error)})"


def _closed(where: str) -> str:
    return (
        f"{where}: the hub gives this model only to those who have accepted its licence: accept it on the model's "
        "page, then log in with hf auth login"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
