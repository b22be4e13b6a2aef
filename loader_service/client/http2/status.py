"""How a call failed, in grpcio's terms: from its trailers, or from an answer that is not gRPC's."""

import os
from typing import Any
from urllib.parse import unquote

import grpc

ANOTHER_WAY = "if a proxy is between, --transport grpcio may get through"
_OF_HTTP = {"401": grpc.StatusCode.UNAUTHENTICATED, "403": grpc.StatusCode.PERMISSION_DENIED}
"""HTTP statuses that asking again will not change."""


def names_a_proxy() -> bool:
    """Whether the environment names a proxy, which this client does not use and grpcio does."""
    return any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy"))


class CallError(grpc.RpcError):
    """How a call failed."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(details)
        self._code, self._details, self._trailers = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailers


def check_headers(headers: dict[str, str]) -> None:
    """Raises CallError unless these are the headers of a gRPC answer."""
    status, kind = headers.get(":status", "none"), headers.get("content-type", "application/grpc")
    if status == "200" and kind.startswith("application/grpc"):
        return
    code = _OF_HTTP.get(status, grpc.StatusCode.UNAVAILABLE)
    raise CallError(code, f"expected a gRPC answer, found HTTP status {status}, content type {kind}; {ANOTHER_WAY}")


def check_trailers(trailers: dict[str, str]) -> None:
    """Raises CallError unless a call's trailers say that it ended well."""
    number = trailers.get("grpc-status")
    if number == "0":
        return
    code = next((each for each in grpc.StatusCode if str(each.value[0]) == number), grpc.StatusCode.UNKNOWN)
    details = unquote(trailers.get("grpc-message", ""))
    if number is None:
        details = f"expected grpc-status at the end, found none; {ANOTHER_WAY}"
    raise CallError(code, details, tuple(trailers.items()))
