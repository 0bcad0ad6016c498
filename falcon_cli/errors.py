"""What can go wrong, as one line for the user: what is wrong, and what to do."""


class FalconError(Exception):
    """Something the user can put right; its message is the one line they read (exit code 1)."""

    exit_code = 1


class UsageError(FalconError):
    """The command was called in a way that cannot work (exit code 2)."""

    exit_code = 2


class LossyOutputError(FalconError):
    """A method's output was not the target's own greedy output (exit code 3)."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """The first line of what an error says, for a message of ours; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
