"""Proxies of Debian's packages before real services: nginx, haproxy and nghttpx, each with its own configuration."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.processes import free_port

START_TIMEOUT_S = 20.0
_NGINX_HTTP = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    upstream loaders {{ {balance} {servers} {keepalive} }}
    server {{
        listen 127.0.0.1:{port} http2 {tls};
        {options}
        location / {{ grpc_pass grpc://loaders; grpc_read_timeout 60s; }}
    }}
}}
"""
_HAPROXY = """
defaults
    mode {mode}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{port} {bind}
    default_backend loaders
backend loaders
    balance roundrobin
    {servers}
"""


def is_installed(program: str) -> bool:
    """Whether there is one; Debian puts them where not every user looks."""
    return _path_of(program) is not None


def _path_of(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(
    folder: Path,
    targets: Sequence[str],
    *,
    balance: str = "",
    keepalive: str = "",
    options: str = "",
    pair: tuple[Path, Path] | None = None,
) -> Iterator[str]:
    """nginx that passes each call on to one of ``targets``; yields its own."""
    port = free_port()
    if pair is not None:
        options += f"ssl_certificate {pair[0]}; ssl_certificate_key {pair[1]};"
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _NGINX_HTTP.format(
            folder=folder,
            port=port,
            balance=balance,
            keepalive=keepalive,
            options=options,
            tls="ssl" if pair else "",
            servers=" ".join(f"server {target};" for target in targets),
        )
    )
    with _running(["nginx", "-c", str(configuration), "-p", str(folder)], port) as target:
        yield target


@contextmanager
def haproxy(folder: Path, targets: Sequence[str], *, mode: str) -> Iterator[str]:
    """haproxy: ``tcp`` passes connections on, ``http`` each call."""
    port = free_port()
    is_http = mode == "http"
    servers = "\n    ".join(
        f"server s{number} {target} {'proto h2' if is_http else ''}" for number, target in enumerate(targets)
    )
    configuration = folder / "haproxy.cfg"
    configuration.write_text(_HAPROXY.format(mode=mode, port=port, bind="proto h2" if is_http else "", servers=servers))
    with _running(["haproxy", "-f", str(configuration), "-db"], port) as target:
        yield target


@contextmanager
def nghttpx(folder: Path, targets: Sequence[str]) -> Iterator[str]:
    """nghttpx, of the authors of nghttp2."""
    port = free_port()
    backends = [f"--backend={target.replace(':', ',')};;proto=h2" for target in targets]
    command = ["nghttpx", f"--frontend=127.0.0.1,{port};no-tls", *backends, f"--conf={folder}/none", "--workers=1"]
    with _running(command, port) as target:
        yield target


@contextmanager
def _running(command: list[str], port: int) -> Iterator[str]:
    program = _path_of(command[0])
    assert program is not None
    with subprocess.Popen(
        [program, *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as proxy:
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _answers(port):
                if proxy.poll() is not None or time.monotonic() > deadline:
                    proxy.kill()
                    raise AssertionError(f"{' '.join(command)}: {proxy.communicate()[0]}")
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            proxy.kill()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
