"""The options of every command that is a client of the service, ours and the trainer's."""

from dataclasses import dataclass
from pathlib import Path

from commandline import check_options, option
from loader_service.client import ClientOptions, Security, Transport
from loader_service.wire.addresses import check_target, named

TARGET = {
    "help": "loaders to read from; HOST:7000-7003 stands for four ports, dns:NAME:PORT for all addresses of NAME",
    "metavar": "HOST:PORT[,...]",
}
"""Of the field ``target``, which commands that do nothing without a loader declare anew, as required."""


@dataclass(frozen=True, kw_only=True)
class ConnectConfig:
    """Which loaders to ask, and how."""

    target: tuple[str, ...] = option((), **TARGET)
    service_timeout_s: float = option(60.0, "give up when no loader has answered for this long", above=0)
    prefetch_steps: int | None = option(
        None,
        "batches in memory or on their way (default: as many as keep every loader at work, up to --prefetch-bytes)",
        least=1,
    )
    prefetch_bytes: int | None = option(
        None,
        "most bytes of images in memory or on their way (default: an eighth of available memory, at most 4 GB)",
        least=1,
    )
    transport: Transport = option(
        "auto",
        "auto: shared memory with loaders on this machine, else gRPC; or one of them only; grpcio: gRPC through "
        "grpcio's own channel, for networks whose proxies need it",
    )
    tls_ca: Path | None = option(None, "PEM file of the authority that signed the loaders' certificates: turns TLS on")
    tls_cert: Path | None = option(None, "PEM file of this client's certificate")
    tls_key: Path | None = option(None, "PEM file of this client's private key")
    tls_server_name: str | None = option(None, "name to expect in the loaders' certificates", metavar="NAME")
    token_file: Path | None = option(None, "file with the bearer token on its first line")
    insecure: bool = option(False, "send the token in clear text to loaders on other machines: anyone can read it")

    def __post_init__(self) -> None:
        check_options(self)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together: one of them is missing")
        for name, found in (("--tls-cert", self.tls_cert), ("--tls-server-name", self.tls_server_name)):
            if found is not None and self.tls_ca is None:
                raise ValueError(f"{name} needs --tls-ca")
        self.client_options  # noqa: B018  # raises for options that do not fit together

    @property
    def client_options(self) -> ClientOptions:
        security = Security(
            tls_ca=self.tls_ca,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            tls_server_name=self.tls_server_name,
            token_file=self.token_file,
            insecure=self.insecure,
        )
        return ClientOptions(
            unavailable_timeout_s=self.service_timeout_s,
            prefetch_steps=self.prefetch_steps,
            prefetch_bytes=self.prefetch_bytes,
            transport=self.transport,
            security=security,
        )

    def require_target(self) -> None:
        """Raises ValueError when there is no loader to ask, or something that is no address."""
        if not self.target:
            raise ValueError("--target: expected at least one HOST:PORT, found none")
        with named("--target"):
            for target in self.target:
                check_target(target)
