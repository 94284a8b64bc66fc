"""Access from the network: nobody, or clients with the token, which is made once and readable by its owner alone."""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
from ipaddress import ip_address
from pathlib import Path

import psutil

from backend.core.errors import StudioError

COOKIE = "studio_token"
COOKIE_KEEP_S = 30 * 24 * 3600
LENGTH = 32  # bytes
TOKEN = re.compile(r"[A-Za-z0-9_-]{43,200}")  # 43 letters are what LENGTH bytes become


def check_host(host: str) -> None:
    """Raise StudioError for an address that other machines could connect to without a token."""
    try:
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise StudioError(
            f"--host {host} is not a loopback address, and would be open without a password;",
            hint="add --lan, which asks others on the network for a token, or leave --host out.",
        )


def read_token(file: Path) -> str | None:
    """The token in `file`; None unless it is a regular file of this user that nobody else can open, with a
    token of the form that `make_token` makes.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as stream:
            found = os.fstat(handle)
            private = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
            text = stream.read(1000).decode("ascii").strip() if private else ""
    except (OSError, ValueError):
        return None
    return text if TOKEN.fullmatch(text) else None


def make_token(file: Path) -> str:
    """A new token, in a file that only its owner can read from the first moment on. Raises StudioError where something
    is in the way.
    """
    token = secrets.token_urlsafe(LENGTH)
    try:
        file.unlink(missing_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(token + "\n")
    except OSError as error:
        raise StudioError(
            f"{file.parent.name}/{file.name}, where the token is kept, cannot be written ({error.strerror});",
            hint="remove what lies there, or mend the rights of its folder.",
        ) from None
    return token


def names_of_this_machine() -> set[str]:
    """Host names of this machine on the network: its name, also with .local, and its addresses."""
    host = socket.gethostname().lower()
    found = {host, f"{host.split('.')[0]}.local"}
    for addresses in psutil.net_if_addrs().values():
        for entry in addresses:
            if entry.family == socket.AF_INET:
                found.add(entry.address)
            elif entry.family == socket.AF_INET6:
                found.add(f"[{entry.address.partition('%')[0]}]")
    return found


def network_address() -> str:
    """The address of the first network interface that is up and no loopback."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if name in up and entry.family == socket.AF_INET and not ip_address(entry.address).is_loopback:
                return entry.address
    return socket.gethostname()
