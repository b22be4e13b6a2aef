"""Whether what answers at an address may be a Ray, which itself waits for minutes and then names another address."""

import socket

from preprocess.errors import PreprocessError

_TIMEOUT_S = 5.0
# HTTP/2's opening, with settings of no entries: any gRPC server, as Ray's are, answers with settings of its own.
_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_TYPE = 4


def check_reachable(address: str) -> None:
    """Raises PreprocessError unless a gRPC server answers at ``HOST:PORT`` or ``ray://HOST:PORT``, within ten seconds.

    Other forms, such as ``auto``, are Ray's to look up, which does not take long.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.sendall(_OPENING)
            header = b""
            while len(header) < 9 and (more := connection.recv(9 - len(header))):
                header += more
    except (OSError, OverflowError) as error:
        raise PreprocessError(
            f"--ray-address {address}: no Ray is reached: {error}: expected a head's address, as ray start --head "
            "prints it"
        ) from None
    if len(header) < 9 or header[3] != _SETTINGS_TYPE:
        raise PreprocessError(
            f"--ray-address {address}: expected a Ray, found another service: ray start --head prints its address"
        )
