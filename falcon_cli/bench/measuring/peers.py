"""Other people's engines on the same weights, in the same run: `transformers.generate`, plain and with prompt lookup,
and llama.cpp on the same GGUF file.

Tokens are counted as ours are: what comes with the first piece (prefill's) is not decoding. A peer's record has one
cycle a piece that it hands over; what happens inside a piece is the peer's own affair.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from falcon_cli.decode.stats import Completion, Cycle, Finish
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.sources import is_gguf, resolve_target
from falcon_cli.spelling import did_you_mean
from falcon_cli.target.load import LoadedTarget, load_target
from falcon_cli.target.reference import plain

AnswerFunction = Callable[[list[int], int], Completion]
"""(prompt, most new tokens) → the answer and its timing."""

GENERATE: dict[str, dict[str, Any]] = {
    "hf": {},
    "hf-pld": {"prompt_lookup_num_tokens": 7, "max_matching_ngram_size": 3},
}
"""transformers' peers → what they add to `generate`'s arguments; prompt lookup with the lengths of our own."""
LLAMA_CPP = "llama-cpp"
PEERS = (*GENERATE, LLAMA_CPP)


@dataclass
class _Clock:
    """Notes when how many tokens came. As a streamer of transformers its first call brings the prompt."""

    began: float = field(default_factory=perf_counter)
    pieces: list[tuple[int, float]] = field(default_factory=list)
    _prompt_seen: bool = False

    def put(self, value: Tensor) -> None:
        """New token ids."""
        if self._prompt_seen:
            self.pieces.append((value.numel(), perf_counter()))
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing more comes."""


def check_peer(name: str, target: TargetRecipe) -> None:
    """Refuse an unknown peer, or one that cannot run this target.

    Raises:
        UsageError: There is no such peer; it is not installed; it does not read the target's format.
    """
    if name not in PEERS:
        raise UsageError(f"unknown peer {name}{did_you_mean(name, PEERS)}: choose from {', '.join(PEERS)}")
    if name == LLAMA_CPP:
        if find_spec("llama_cpp") is None:
            raise UsageError("peer llama-cpp needs the llama-cpp-python package: pip install 'falcon-cli[llama-cpp]'")
        gguf_of(target)


def gguf_of(target: TargetRecipe) -> Path:
    """The GGUF file that a target is made of.

    Raises:
        UsageError: It is made of none.
    """
    where = resolve_target(target.model)
    if not isinstance(where, Path) or not is_gguf(where):
        raise UsageError(f"peer llama-cpp reads GGUF files, and {target.model} is none: leave the peer out")
    return where


def peer_answers(names: Sequence[str], recipe: TargetRecipe, target: LoadedTarget) -> dict[str, AnswerFunction]:
    """How each peer answers; transformers' own run its own layers, loaded again where the target is on native kernels.

    Raises:
        FalconError: llama.cpp cannot load the file.
    """
    answers: dict[str, AnswerFunction] = {}
    bare = target
    if target.model.native is not None and not GENERATE.keys().isdisjoint(names):
        bare = load_target(replace(recipe, kernels="torch", quantize="none"))
    for name in names:
        if name == LLAMA_CPP:
            answers[name] = LlamaCpp(gguf_of(recipe), target).answer
        else:
            answers[name] = lambda prompt, limit, name=name: generate(name, bare, prompt, limit)  # type: ignore[misc]
    return answers


class LlamaCpp:
    """llama.cpp on a GGUF file, with as many threads and as much context as the target has here.

    Args:
        gguf: The file.
        target: Whose stop tokens and context are taken.

    Raises:
        FalconError: llama.cpp cannot load it.
    """

    def __init__(self, gguf: Path, target: LoadedTarget):
        from llama_cpp import Llama

        _try_out(gguf)
        threads = torch.get_num_threads()
        self.stop_ids = target.stop_ids
        try:
            self.model: Any = Llama(
                str(gguf),
                n_ctx=min(target.model.context_limit, 4096),
                n_threads=threads,
                n_threads_batch=threads,
                verbose=False,
            )
        except (ValueError, RuntimeError) as error:
            raise FalconError(f"{gguf}: llama.cpp cannot load it ({error})") from error

    def answer(self, prompt: list[int], max_new_tokens: int) -> Completion:
        """Decode the answer to one prompt greedily."""
        clock, new = _Clock(_prompt_seen=True), []
        self.model.reset()
        for token in self.model.generate(prompt, temp=0.0, repeat_penalty=1.0):
            clock.put(torch.tensor([token]))
            new.append(token)
            if token in self.stop_ids or len(new) == max_new_tokens:
                break
        return _record(clock, len(prompt), new, self.stop_ids)


_TRIAL = """
import sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=64, n_threads=1, verbose=False)
next(model.generate([1, 2, 3], temp=0.0))
"""


def _try_out(gguf: Path) -> None:
    """Let llama.cpp decode a token in a process of its own, which a crash may take with it.

    Raises:
        FalconError: It crashes, as a build does that uses instructions which a virtual machine does not have.
    """
    done = subprocess.run([sys.executable, "-c", _TRIAL, str(gguf)], capture_output=True, check=False)
    if done.returncode < 0:
        raise FalconError(
            f"llama.cpp crashes on this processor ({signal.Signals(-done.returncode).name}): build it again with "
            "CMAKE_ARGS=-DGGML_NATIVE=OFF, or leave out --peer llama-cpp"
        )


@torch.inference_mode()
def generate(name: str, target: LoadedTarget, prompt: list[int], max_new_tokens: int) -> Completion:
    """Decode the answer to one prompt greedily with `transformers.generate`, with none of the target's penalties."""
    with target.model.plain_transformers() as model:
        clock = _Clock()
        output = plain.generate(model, prompt, target.stop_ids, max_new_tokens, GENERATE[name], clock)
    new = output[0, len(prompt) :].tolist()
    return _record(clock, len(prompt), new, target.stop_ids)


def _record(clock: _Clock, prompt_tokens: int, new: list[int], stop_ids: frozenset[int]) -> Completion:
    (first, start), *rest = clock.pieces
    cycles, seen, before = [], first, start
    for tokens, when in rest:
        emitted = min(tokens, len(new) - seen)  # generate may stream past the stop token that it then cuts at
        if emitted > 0:
            cycles.append(Cycle(emitted, emitted, 0.0, when - before, when - before))
        seen, before = seen + emitted, when
    finish: Finish = "stop" if new and new[-1] in stop_ids else "length"
    return Completion(prompt_tokens, new, start - clock.began, cycles, finish)
