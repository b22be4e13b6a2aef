"""Lines for people, in which names from elsewhere are shown and not obeyed."""

import sys


def plain(text: str) -> str:
    """Text as one line that moves no cursor and sets no colour: what cannot be printed is written as an escape.

    Bytes of names that are no text, which Python keeps as surrogates, are ``\\xff``. Tabs stay.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() or character == "\t":
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


def write_line(text: str) -> None:
    """Writes one line to stderr: where people read, leaving stdout to results."""
    print(plain(text), file=sys.stderr, flush=True)


def print_line(text: str = "") -> None:
    """Writes one line of results to stdout."""
    encoding = sys.stdout.encoding or "utf-8"
    print(plain(text).encode(encoding, "backslashreplace").decode(encoding))


def one_line(error: BaseException) -> str:
    """What an error says, or else its type, without line breaks; of an OSError neither its number nor its file."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__


def counted(count: int, noun: str, plural: str = "s") -> str:
    """``1 problem``, ``2 problems``."""
    return f"{count:,} {noun}{'' if count == 1 else plural}"
