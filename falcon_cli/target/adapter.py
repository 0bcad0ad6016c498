"""A LoRA-tuned target: the adapter's changes are added to the weights before anything else happens."""

from typing import Any

from falcon_cli.errors import FalconError


def with_adapter(model: Any, adapter: str) -> Any:
    """The transformers model with a peft adapter merged into it.

    Raises:
        FalconError: The adapter cannot be read, or was made for another model.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except Exception as error:  # a missing file, a pickle, sizes of another model: one line for all of them
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FalconError(f"adapter {adapter} does not fit this target ({reason})") from error
