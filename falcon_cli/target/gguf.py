"""A GGUF file becomes an ordinary transformers folder, once.

transformers reads GGUF itself (dequantised, slow: some 20 s for a small model), but will not save the result until the
quantisation note is dropped from its configuration; saved as safetensors it loads in a second.
"""

import hashlib
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from falcon_cli.console import say
from falcon_cli.errors import FalconError, first_line
from falcon_cli.sources import atomic_folder, home, locked


def converted(gguf: Path) -> Path:
    """The transformers folder of a GGUF file, made in the cache when it is not there yet.

    The folder's name carries size and a hash of the file's head, where GGUF keeps the model's description, so another
    file of the same name gets another folder.

    Raises:
        FalconError: transformers cannot read the file; no space in the cache.
    """
    folder = home() / "models" / f"{gguf.stem}-{_fingerprint(gguf)}"
    with locked(folder):
        if not (folder / "config.json").is_file():
            say(f"converting {gguf.name} to safetensors (once, some 20 s)")
            with atomic_folder(folder) as unfinished:
                _convert(gguf, unfinished)
    return folder


def whole(model: Any, report: dict[str, Any]) -> Any:
    """The model, unless transformers has filled gaps in it with random weights.

    Raises:
        ValueError: Its loading report names weights that the file does not hold.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    return model


def _fingerprint(path: Path) -> str:
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(0, path.stat().st_size - (1 << 20)))
        digest.update(file.read())
    return digest.hexdigest()[:12]


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        with redirect_stderr(StringIO()):  # a progress bar that has no switch
            tokenizer = AutoTokenizer.from_pretrained(**source)
            loaded: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, output_loading_info=True)
        model = whole(*loaded)
    except Exception as error:  # transformers and gguf raise whatever their parsing stumbles on
        raise FalconError(f"{gguf}: not a GGUF model that transformers can read ({first_line(error)})") from error
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
