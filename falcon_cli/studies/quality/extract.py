"""The program in an answer to HumanEval, by the rules that are usual for models that chat.

The first fenced block that defines the function is the program. Where no block does, an answer that defines it in plain
text is the program, without the prose after it, and any other answer continues the prompt, up to the first of the lines
that HumanEval stops at. What the prompt holds before the function (imports, helpers) always comes first.
"""

import ast
import re
from textwrap import dedent

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_BEGIN = re.compile(r"^(?:import |from |def |async def |class |@)", re.MULTILINE)
_STOP = re.compile(r"\n(?=class |def |#|if |print|@|```)")
_INDENT = "    "


def program_of(answer: str, prompt: str, entry_point: str) -> str:
    """The program that an answer stands for.

    Args:
        answer: The model's words, special tokens left out.
        prompt: The function's head and docstring, after what it needs.
        entry_point: The function's name.
    """
    answer = answer.replace("\r\n", "\n")
    blocks = [dedent(found[2]) for found in _FENCE.finditer(answer)]
    before = _before(prompt, entry_point)
    for block in blocks:
        if _defines(block, entry_point):
            return f"{before}\n{block}"
    bodies = [found[2] for found in _FENCE.finditer(answer) if found[2].startswith((" ", "\t"))]
    if bodies:
        return prompt + bodies[0]
    if blocks:
        return f"{before}\n{blocks[0]}"
    if _defines(answer, entry_point):
        return f"{before}\n{_without_prose(answer, entry_point)}"
    return prompt + _body(answer)


def _defines(text: str, name: str) -> bool:
    return re.search(rf"^(?:async )?def +{re.escape(name)} *\(", text, re.MULTILINE) is not None


def _before(prompt: str, name: str) -> str:
    """What a prompt holds before the function."""
    return re.split(rf"^def +{re.escape(name)} *\(", prompt, maxsplit=1, flags=re.MULTILINE)[0]


def _without_prose(answer: str, name: str) -> str:
    """The longest run of lines, from the first that begins a program, that Python can read; all where none is."""
    begins = [found.start() for found in _BEGIN.finditer(answer)]
    for begin in begins:
        lines = answer[begin:].splitlines()
        for end in range(len(lines), 0, -1):
            text = "\n".join(lines[:end]) + "\n"
            if not _defines(text, name):
                break
            if _reads(text):
                return text
    return answer[begins[0] :]


def _reads(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _body(answer: str) -> str:
    """A continuation of the prompt; a first line that lost its indent gets it back."""
    text = answer.strip("\n")
    if text and not text[0].isspace():
        text = _INDENT + text
    return _STOP.split(text, maxsplit=1)[0] + "\n"
