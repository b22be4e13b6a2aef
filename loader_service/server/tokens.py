"""Bearer tokens: read from a file, reloaded when it changes, compared in constant time."""

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from commandline import counted, one_line
from loader_service.server.admission import refuse
from loader_service.wire.errors import AccessError

log = logging.getLogger(__name__)

_Version = tuple[int, int, int]
"""Of a file: when it was written, its size, its inode."""

_PREFIX = "Bearer "
_OPEN_SERVICES = ("/grpc.health.v1.Health/",)


class TokenFile:
    """The tokens that are admitted: one a line; empty lines and lines that start with ``#`` do not count.

    The file is looked at again every ``check_interval_s`` at most, and read when it has stayed the same for so long:
    one that is being written must not shut anybody out. One that became unreadable, empty or wrong keeps the tokens
    that were read last, and says so in the log: a slip of the hand must not stop every trainer. Raises AccessError when
    there is no token to begin with, or one that cannot be sent.
    """

    def __init__(self, path: Path, *, check_interval_s: float = 1.0) -> None:
        self._path, self._check_interval_s = path, check_interval_s
        self._lock = threading.Lock()
        self._checked_at = 0.0
        self._version: _Version | None = None
        """Of the file that was read last."""
        self._seen: _Version | None = None
        """Of the file that was there when it was last looked at."""
        self._tokens: tuple[bytes, ...] = ()
        self._refresh()
        if not self._tokens:
            raise AccessError(f"{path}: expected at least one token, one a line, found none")

    def identify(self, header: str | None) -> str | None:
        """Who sent an ``authorization`` header: a name for logs and limits, that does not give the token away.

        None when no token matches. Takes as long for a wrong token as for a right one.
        """
        self._refresh()
        given = (header or "").removeprefix(_PREFIX).encode()
        has_prefix = (header or "").startswith(_PREFIX)
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token, given) and has_prefix:
                found = "token-" + hashlib.sha256(token).hexdigest()[:8]
        return found

    def _refresh(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._tokens and now - self._checked_at < self._check_interval_s:
                return
            self._checked_at = now
            try:
                status = self._path.stat()
                version = (status.st_mtime_ns, status.st_size, status.st_ino)
                is_settled = version == self._seen or time.time() - status.st_mtime >= self._check_interval_s
                self._seen = version
                if version == self._version or (self._tokens and not is_settled):
                    return
                tokens = _tokens_in(self._path)
            except (OSError, UnicodeDecodeError) as error:
                if not self._tokens:
                    raise AccessError(f"{self._path}: the tokens cannot be read: {one_line(error)}") from None
                log.error("%s: cannot be read (%s); the tokens read before still hold", self._path, one_line(error))
                return
            except AccessError as error:
                if not self._tokens:
                    raise
                self._version = version
                log.error("%s; the tokens read before still hold", error)
                return
            self._version = version
            if not tokens and self._tokens:
                log.error("%s: holds no token; the tokens read before still hold", self._path)
                return
            if self._tokens:
                log.info("%s: read again: %s", self._path, counted(len(tokens), "token"))
            self._tokens = tokens


def _tokens_in(path: Path) -> tuple[bytes, ...]:
    """Raises AccessError, without giving it away, for a token that no header can hold."""
    tokens = []
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if not (token.isascii() and token.isprintable()):
            raise AccessError(f"{path}: line {number}: expected a token of printable ASCII characters, found others")
        tokens.append(token.encode())
    return tuple(tokens)


class TokenInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses calls without a known token with UNAUTHENTICATED, before anything of them is read.

    Health checks are open: probes have no token, and the answer tells no more than an open port does.
    """

    def __init__(self, tokens: TokenFile, on_refusal: Callable[[], None]) -> None:
        self._tokens = tokens
        self._on_refusal = on_refusal

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if handler_call_details.method.startswith(_OPEN_SERVICES):
            return continuation(handler_call_details)
        header = dict(handler_call_details.invocation_metadata).get("authorization")
        if self._tokens.identify(header) is not None:
            return continuation(handler_call_details)
        self._on_refusal()
        return _REFUSAL


def _turn_away(requests: Any, context: grpc.ServicerContext) -> None:
    refuse(context, grpc.StatusCode.UNAUTHENTICATED, "expected a valid bearer token in the authorization metadata")


# Of streamed requests, whatever the method's are: gRPC would wait for a single one, and for ever.
_REFUSAL = grpc.stream_unary_rpc_method_handler(_turn_away)
