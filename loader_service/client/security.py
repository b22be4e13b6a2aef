"""How a client proves itself, and whom it trusts."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from loader_service.wire.addresses import check_guarded
from loader_service.wire.credentials import load_authority, load_certificate, read_token
from loader_service.wire.errors import AccessError


@dataclass(frozen=True, kw_only=True)
class Security:
    """How a client proves itself and whom it trusts; all None is clear text without a token."""

    tls_ca: Path | None = None
    """PEM file of the certificate authority that signed the servers' certificates; turns TLS on."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    """PEM files of the client's own certificate and key, where the service asks for them."""
    tls_server_name: str | None = None
    """Name to expect in the servers' certificates instead of the target's host."""
    token_file: Path | None = None
    """File whose first line is sent as the bearer token; read again for each stream, so it can be renewed."""
    insecure: bool = False
    """Whether the token may go in clear text to an address that is not loopback."""

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: one of them is missing")
        for name in ("tls_cert", "tls_server_name"):
            if getattr(self, name) is not None and self.tls_ca is None:
                raise ValueError(f"{name} needs tls_ca")

    def check(self) -> None:
        """Raises AccessError, naming the file, when one of them cannot be read or does not hold what it should."""
        self.bearer_token()
        self.tls_context()

    def check_reach(self, target: str) -> None:
        """Raises AccessError when the token would go to ``target`` for others to read."""
        try:
            check_guarded(
                "target",
                target,
                is_guarded=self.token_file is None or self.tls_ca is not None or self.insecure,
                guards="TLS (--tls-ca), or --insecure to send the token in clear text",
            )
        except ValueError as error:
            raise AccessError(str(error)) from None

    def bearer_token(self) -> str | None:
        """The token in the file as it is now; None without a file. Raises AccessError."""
        return None if self.token_file is None else read_token(self.token_file)

    def tls_context(self) -> ssl.SSLContext | None:
        """Whom a connection trusts and what it shows; None for clear text. Raises AccessError.

        As with grpcio, ``tls_ca`` may be any authority of the chain, not only its root.
        """
        if self.tls_ca is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        load_authority(context, self.tls_ca)
        if self.tls_cert is not None and self.tls_key is not None:
            load_certificate(context, self.tls_cert, self.tls_key)
        return context
