"""A LoRA-tuned target: the adapter's changes are added to the weights before anything else happens."""

import warnings
from pathlib import Path
from typing import Any

from falcon_cli.errors import FalconError, first_line


def with_adapter(model: Any, adapter: str) -> Any:
    """The transformers model with a peft adapter merged into it.

    Raises:
        FalconError: The adapter cannot be read, or was made for another model.
    """
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    if Path(adapter).is_dir() and not (Path(adapter) / "adapter_model.safetensors").is_file():
        raise FalconError(f"adapter {adapter} holds no adapter_model.safetensors; pickled weights are not read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing weights: counted below
            adapted = PeftModel.from_pretrained(model, adapter)
        astray = load_peft_weights(adapter, device="cpu").keys() ^ get_peft_model_state_dict(adapted).keys()
        if astray:
            raise ValueError(f"{len(astray)} weights are of layers that only one of them has, such as {min(astray)}")
        return adapted.merge_and_unload()
    except Exception as error:  # a missing file, a pickle, sizes of another model: one line for all of them
        raise FalconError(f"adapter {adapter} does not fit this target ({first_line(error)})") from error
