"""Files that prove who somebody is: PEM files and tokens, read with errors that name them."""

import ssl
from pathlib import Path

from loader_service.wire.errors import AccessError


def read_token(path: Path) -> str:
    """The token on the first line of a file. Raises AccessError, which never shows any of it."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(f"{path}: the token cannot be read: {error}") from None
    token = lines[0].strip() if lines else ""
    if not token:
        raise AccessError(f"{path}: expected a token on the first line, found none")
    if not (token.isascii() and token.isprintable()):
        raise AccessError(f"{path}: expected a token of printable ASCII characters, found others")
    return token


def load_authority(context: ssl.SSLContext, path: Path) -> None:
    """Makes ``context`` trust the authority in a PEM file. Raises AccessError."""
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise AccessError(f"{path}: expected the certificate of an authority, found: {_why(error)}") from None


def load_certificate(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Makes ``context`` show a certificate. Raises AccessError when the PEM files are not one's certificate and key."""
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except (OSError, ValueError) as error:
        raise AccessError(f"{cert}, {key}: expected a certificate and its key, found: {_why(error)}") from None


def _refuse_password() -> str:
    raise ValueError("a key that needs a password")  # OpenSSL would ask for it at the terminal


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no PEM").lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
