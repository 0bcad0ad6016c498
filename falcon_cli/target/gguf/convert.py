"""A GGUF file becomes an ordinary transformers folder, once, so that it then loads in a second.

Or it becomes such a folder without weights, and a table of where the file has them (`blocks.py`).
"""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from falcon_cli.console import say
from falcon_cli.errors import FalconError, first_line
from falcon_cli.sources import atomic_folder, home, locked
from falcon_cli.target.gguf.architectures import ARCHITECTURES
from falcon_cli.target.gguf.config import check_keys, model_config
from falcon_cli.target.gguf.end_tokens import end_tokens
from falcon_cli.target.gguf.file import UNREADABLE, GgufFile
from falcon_cli.target.gguf.mapped import TABLE, write_table
from falcon_cli.target.gguf.tokenizer import build_tokenizer, special_id
from falcon_cli.target.gguf.weights import blank_model, converted_bytes, write_weights

VERSION = 2
"""Of the conversion: folders made by another are not used."""


def converted(gguf: Path) -> Path:
    """The transformers folder of a GGUF file, made in the cache when it is not there yet.

    The folder's name carries size and a hash of the file's head, where GGUF keeps the model's description, so another
    file of the same name gets another folder; and the version of the conversion.

    Raises:
        FalconError: A file that cannot be read, or asks for what falcon cannot follow; no space in the cache.
    """
    return _made(gguf, "", "config.json", _convert)


def described(gguf: Path) -> Path:
    """A folder like `converted`'s without the weights, with a table of the file's tensors instead.

    Of an architecture that only transformers can convert there is no config.json.

    Raises:
        FalconError: A file that cannot be read, or asks for what falcon cannot follow.
    """
    return _made(gguf, "-described", TABLE, _describe)


def _made(gguf: Path, ending: str, sign: str, make: Callable[[GgufFile, Path], None]) -> Path:
    """A folder in the cache; it is made where it has no file named `sign` yet."""
    folder = home() / "models" / f"{gguf.stem}-{_fingerprint(gguf)}-v{VERSION}{ending}"
    with locked(folder):
        if not (folder / sign).is_file():
            say(f"reading {gguf.name} (once)")
            try:
                make(GgufFile(gguf), folder)
            except (FalconError, OSError):
                raise
            except Exception as error:  # numpy, gguf, tokenizers and transformers raise whatever they stumble on
                raise FalconError(f"{gguf}: {UNREADABLE} ({first_line(error)})") from error
    return folder


def tokenizer_class(folder: str) -> Any:
    """The class of transformers that reads a folder's tokenizer as it was saved.

    For some kinds of models `AutoTokenizer` takes the model's usual tokenizer, whatever the folder says; a GGUF file
    may have asked for another.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    return PreTrainedTokenizerFast if Path(folder).parent == home() / "models" else AutoTokenizer


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


def _convert(file: GgufFile, folder: Path) -> None:
    tokenizer, needed = build_tokenizer(file), converted_bytes(file)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise file.refusal(
            f"converted it takes {needed / 1e9:.2f} GB, and {folder.parent} has {free / 1e9:.2f} GB free: free some, "
            "or set FALCON_HOME to another disk"
        )
    with atomic_folder(folder, needed) as unfinished:
        if file.architecture in ARCHITECTURES:
            _tensor_by_tensor(file, unfinished)
        else:
            _by_transformers(file, unfinished)
        _write_words(file, tokenizer, unfinished)


def _describe(file: GgufFile, folder: Path) -> None:
    tokenizer = build_tokenizer(file)
    with atomic_folder(folder) as unfinished:
        if file.architecture in ARCHITECTURES:
            _write_config(blank_model(model_config(file)), unfinished)
        _write_words(file, tokenizer, unfinished)
        write_table(file, unfinished)


def _write_words(file: GgufFile, tokenizer: Any, folder: Path) -> None:
    """The tokenizer, and which tokens end a text."""
    from transformers import GenerationConfig

    tokenizer.save_pretrained(folder)
    ids = {f"{short}_token_id": special_id(file, name) for short, name in (("bos", "bos"), ("pad", "padding"))}
    GenerationConfig(eos_token_id=end_tokens(file) or None, **ids).save_pretrained(folder)


def _tensor_by_tensor(file: GgufFile, folder: Path) -> None:
    model = blank_model(model_config(file))
    write_weights(file, model, ARCHITECTURES[file.architecture].processor, folder)
    _write_config(model, folder)


def _write_config(model: Any, folder: Path) -> None:
    import torch

    model.config.architectures, model.config.dtype = [type(model).__name__], torch.float32  # the widest that is in it
    model.config.save_pretrained(folder)


def _by_transformers(file: GgufFile, folder: Path) -> None:
    """Let transformers convert an architecture of which falcon has no description; it holds the whole model in fp32."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
    from transformers.utils import logging

    names: dict[str, Any] = GGUF_CONFIG_MAPPING
    check_keys(file, names.get(file.architecture.replace("-", "_"), {}).keys(), refuse=False)
    say(f"converting {file.path.name} to safetensors (once)")
    logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": str(file.path.parent), "gguf_file": file.path.name}
    try:
        with redirect_stderr(StringIO()):  # a progress bar that has no switch
            loaded: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, output_loading_info=True)
        model = whole(*loaded)
    except Exception as error:  # transformers and gguf raise whatever their parsing stumbles on
        raise FalconError(f"{file.path}: transformers cannot read this model ({first_line(error)})") from error
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    model.save_pretrained(folder)
