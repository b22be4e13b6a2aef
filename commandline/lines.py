"""One line for people."""

import sys


def write_line(text: str) -> None:
    """Writes one line to stderr: where people read, leaving stdout to results."""
    print(text, file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """What an error says, or else its type, without line breaks; of an OSError neither its number nor its file."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__
