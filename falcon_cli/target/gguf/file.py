"""A GGUF file: what it says of its model, and its tensors, mapped into memory."""

from pathlib import Path
from typing import Any

from falcon_cli.errors import FalconError, first_line

UNREADABLE = "not a GGUF model that falcon can read"
"""What a file is that is no GGUF file, is cut short or contradicts itself."""


class GgufFile:
    """A GGUF file, open for reading.

    Args:
        path: The file.

    Raises:
        FalconError: It is no GGUF file, is cut short, or holds no whole model.
    """

    def __init__(self, path: Path):
        from gguf import GGUFReader

        self.path = path
        """Where it lies."""
        try:
            reader = GGUFReader(path)
            metadata = {key: field.contents() for key, field in reader.fields.items()}
            self.architecture: str = metadata["general.architecture"]
            """llama.cpp's name for the kind of network."""
        except Exception as error:  # gguf raises whatever its parsing stumbles on
            raise FalconError(f"{path}: {UNREADABLE} ({first_line(error)})") from error
        self.metadata: dict[str, Any] = {key: metadata[key] for key in metadata if not key.startswith("GGUF.")}
        """What the file says of its model: numbers, strings, lists."""
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        """Its tensors by llama.cpp's names, as gguf's `ReaderTensor`."""
        self._refuse_parts()

    def refusal(self, text: str) -> FalconError:
        """An error of one line that names the file."""
        return FalconError(f"{self.path}: {text}")

    def get(self, key: str, default: Any = None) -> Any:
        """What the file says under a whole key, such as `tokenizer.ggml.pre`."""
        return self.metadata.get(key, default)

    def own(self, name: str, default: Any = None) -> Any:
        """What the file says under a key of its architecture, such as `rope.freq_base`."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    def own_names(self) -> list[str]:
        """The keys of its architecture, without the architecture."""
        start = f"{self.architecture}."
        return [key.removeprefix(start) for key in self.metadata if key.startswith(start)]

    def _refuse_parts(self) -> None:
        kind = self.get("general.type", "model")
        if kind != "model":
            raise self.refusal(f"general.type is {kind}: give the file of a whole model")
        if self.get("split.count", 0) > 1:
            raise self.refusal(
                f"split.count is {self.get('split.count')}: join the parts first (llama-gguf-split --merge)"
            )
