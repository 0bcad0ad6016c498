"""Answers as models give them."""

import pytest

from falcon_cli.data.sets.humaneval import problems
from falcon_cli.studies.quality.extract import program_of

PROMPT = (
    'from typing import List\n\n\ndef helper(x):\n    return 2 * x\n\n\ndef twice(x: int) -> int:\n    """Doubled."""\n'
)
WHOLE = "def twice(x: int) -> int:\n    return helper(x)\n"
RIGHT = {
    "fenced": f"Here is the function:\n\n```python\n{WHOLE}```\n\nIt doubles `x`.",
    "fenced, without a language": f"```\n{WHOLE}```",
    "fenced, with windows' line ends": f"```py\n{WHOLE}```".replace("\n", "\r\n"),
    "fenced by more": f"````python\n{WHOLE}````\n",
    "fenced by tildes": f"~~~python\n{WHOLE}~~~",
    "cut before the fence closed": f"Sure!\n```python\n{WHOLE}",
    "in a list, indented": "1. So:\n\n   ```python\n   def twice(x: int) -> int:\n       return helper(x)\n   ```\n",
    "an example first": f"For example:\n```python\nprint(twice(2))  # 4\n```\nThe code:\n```python\n{WHOLE}```",
    "a block that fails after it": f"```python\n{WHOLE}```\nNow try\n```python\nassert twice(2) == 5\n```",
    "another version after it": f"```python\n{WHOLE}```\nShorter but wrong:\n```python\ndef twice(x): return x\n```",
    "with its own imports and main": (
        f'```python\nimport math\n\n{WHOLE}\nif __name__ == "__main__":\n    raise SystemExit(3)\n```'
    ),
    "its own helper": "```python\ndef helper(y):\n    return y + y\n\ndef twice(x):\n    return helper(x)\n```",
    "a decorator": "```python\nimport functools\n\n@functools.cache\ndef twice(x):\n    return 2 * x\n```",
    "plain text": f"{WHOLE}",
    "plain text, then prose": f"Here you are.\n\n{WHOLE}\nThis function doubles x, which isn't hard.",
    "prose that begins as a program does": f"from this we see that\n{WHOLE}",
    "plain text, cut": f"{WHOLE}\n\ndef main():\n    print(",
    "a continuation": "    return helper(x)\n",
    "a continuation without its first indent": "y = helper(x)\n    return y\n",
    "a continuation that goes on": "    return helper(x)\n\nprint(twice(2)\nassert False\n",
    "a continuation and another function": "    return helper(x)\n\ndef other(x):\n    return (",
    "a fenced body": "```python\n    return helper(x)\n```",
}
WRONG = {
    "nothing": "",
    "prose": "I cannot help with that.",
    "another name": "```python\ndef double(x):\n    return 2 * x\n```",
    "a wrong block before a right one": f"```python\ndef twice(x):\n    return x\n```\n\n```python\n{WHOLE}```",
    "a name that only begins alike": "```python\ndef twice_over(x):\n    return 2 * x\n```",
    "code that does not read": "```python\ndef twice(x):\n    return 2 *\n```",
    "a cut line": "```python\ndef twice(x):\n    return hel",
}


def works(answer):
    space = {"__name__": "answer"}
    try:
        exec(program_of(answer, PROMPT, "twice"), space)
        return space["twice"](2) == 4
    except (SyntaxError, NameError, KeyError):
        return False


@pytest.mark.parametrize("answer", RIGHT.values(), ids=RIGHT)
def test_the_program_is_found(answer):
    assert works(answer)


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_what_is_wrong_stays_wrong(answer):
    assert not works(answer)


def test_a_canonical_solution_is_read_in_every_form():
    problem = problems()["HumanEval/32"]  # its tests need the prompt's helper
    body = "    return 0.0\n"
    head = problem.prompt[problem.prompt.index("def find_zero") :]
    for answer in (body, f"```python\n{head}{body}```", f"```python\n{body}```", head + body):
        program = program_of(answer, problem.prompt, problem.entry_point)
        assert "def poly(" in program
        compile(program, "answer", "exec")
