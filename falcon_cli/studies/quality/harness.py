"""Runs an answer's code and then its tests, behind the walls of `jail.py`; this text too runs by itself.

stdin holds JSON: the code, the tests (they define `check`), the name of the function, and a token. A line of JSON goes
to the file descriptor of the first argument: the token once the last assertion has held, else what went wrong.
"""

import json
import os
import sys
from types import ModuleType


def main() -> None:
    """Run what stdin holds; this process ends here, whatever the code leaves running or registered."""
    report = int(sys.argv[1])
    with open(0, "rb") as stream:
        task = json.load(stream)
    token = task.pop("token")
    os.open(os.devnull, os.O_RDONLY)  # the lowest descriptor that is free: stdin
    try:
        _run(**task)
        said = {"token": token}
    except BaseException as error:  # exits and interrupts of the code's own are failures too
        said = {"reason": _told(error)}
    os.write(report, json.dumps(said).encode())
    os._exit(0)


def _run(code: str, test: str, entry_point: str) -> None:
    module = ModuleType("answer")  # no "__main__": what an answer does there is not asked for
    sys.modules["answer"] = module
    exec(compile(code, "answer", "exec"), module.__dict__)
    exec(compile(test, "test", "exec"), module.__dict__)
    module.__dict__["check"](module.__dict__[entry_point])


def _told(error: BaseException) -> str:
    """The kind of an error and its first line, without trusting its methods."""
    try:
        text = str(error).strip().partition("\n")[0]
    except BaseException:
        text = ""
    return f"{type(error).__name__}: {text}"[:200].rstrip(": ")


if __name__ == "__main__":
    main()
