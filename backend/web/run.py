"""Serve the studio with uvicorn until Ctrl-C: the port checked first, the address written for the command line."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from typing import Any

import uvicorn

from backend.core.config import Settings
from backend.core.errors import StudioBusy
from backend.system import logs
from backend.video_generator import shared_generator
from backend.web.client import running_studio
from backend.web.guard import LOOPBACK_HOSTS
from backend.web.network import make_token, names_of_this_machine, network_address, read_token
from backend.web.server import create_app
from backend.web.timeouts import HeaderTimeoutProtocol

log = logging.getLogger(__name__)

EVERY_ADDRESS = "0.0.0.0"
WITH_IPV6 = ("127.0.0.1", "localhost", EVERY_ADDRESS)  # addresses beside which the studio listens on ::1 too
BACKLOG = 2048  # connections that wait to be accepted
GRACE_S = 3  # open downloads and event streams may finish for this long after Ctrl-C


def run_server(settings: Settings, host: str | None, port: int, *, lan: bool, open_browser: bool) -> None:
    """Serve until a signal ends it; with `lan` also to the network, by token. Raises StudioBusy for a taken port."""
    host = host or (EVERY_ADDRESS if lan else "127.0.0.1")
    sockets = bind_sockets(settings, host, port)
    name = f"[{host}]" if ":" in host else host
    url = f"http://{'localhost' if host in WITH_IPV6 else name}:{port}"
    logs.write_to_terminal()
    _allow_many_files()
    shared_generator(settings)  # here, so that a data folder in use is one sentence, not a failed start of the server
    hosts, token = {*LOOPBACK_HOSTS, name}, None
    if lan:
        hosts |= names_of_this_machine()
        token = _show_token(settings, port)
    app = create_app(settings, hosts, token)
    config = uvicorn.Config(
        app,
        http=HeaderTimeoutProtocol,
        backlog=BACKLOG,
        log_level="warning",
        log_config=None,  # its lines go where all others do, the file included
        timeout_graceful_shutdown=GRACE_S,
        ws_max_size=64 * 2**20,
        server_header=False,
        # uvicorn would believe every proxy on this machine, and so every program.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
    )
    server = uvicorn.Server(config)
    for one in sockets:
        with _explained_port(settings, port):
            one.listen(BACKLOG)
    threading.Thread(target=_announce, args=(server, settings, url, open_browser), daemon=True).start()
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        pass  # uvicorn raises it again after a clean shutdown
    finally:
        print("The studio is closed.")


def _allow_many_files() -> None:
    """Raise the soft limit of open files, often 1024, to what the system allows: connections count too."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _show_token(settings: Settings, port: int) -> str:
    """The token of this data folder, made if there is none; a new one is printed once, with the address for others."""
    token = read_token(settings.token)
    address = f"http://{network_address()}:{port}"
    if token is None:
        token = make_token(settings.token)
        print(f"For others on this network: {address}/?token={token}", flush=True)
        print("This is shown once; whoever has the address can use the studio.", flush=True)
    else:
        print(f"For others on this network: {address}, with the token in outputs/{settings.token.name}", flush=True)
    return token


def bind_sockets(settings: Settings, host: str, port: int) -> list[socket.socket]:
    """Sockets bound to `host`; beside 127.0.0.1 also to ::1, which localhost may mean, where there is IPv6.

    Raises StudioBusy if something already listens on one of them.
    """
    with _explained_port(settings, port):
        first = "127.0.0.1" if host == "localhost" else host
        sockets = [_bound(*found) for found in _addresses(first, port)]
        if host in WITH_IPV6:
            with _without_ipv6():
                sockets += [_bound(*found) for found in _addresses("::1", port)]
    return sockets


def _addresses(host: str, port: int) -> set[tuple[int, Any]]:
    """Address families and addresses of `host`. Raises OSError for a name that is not known."""
    return {(found[0], found[4]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}


def _bound(family: int, address: Any) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


@contextlib.contextmanager
def _without_ipv6() -> Iterator[None]:
    """Let a machine without IPv6 pass; raise what else goes wrong."""
    try:
        yield
    except socket.gaierror:
        pass
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            raise


@contextlib.contextmanager
def _explained_port(settings: Settings, port: int) -> Iterator[None]:
    """Turn an OSError into StudioBusy, with the way out."""
    try:
        yield
    except OSError as error:
        ours = running_studio(settings) == f"http://localhost:{port}"
        other = port + 1 if port < 65535 else 8501
        what = "the studio already runs there; open it" if ours else f"start with --port {other}"
        raise StudioBusy(f"Port {port} cannot be used ({error.strerror});", hint=f"{what}.") from None


def _announce(server: uvicorn.Server, settings: Settings, url: str, open_browser: bool) -> None:
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.05)
    try:
        settings.address.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    except OSError as error:
        where = f"{settings.outputs.name}/{settings.address.name}"
        message = "%s cannot be written (%s): commands will not find this studio; make room, or remove what lies there"
        log.warning(message, where, error.strerror)
    print(f"The studio is open at {url} (Ctrl-C closes it)", flush=True)
    if open_browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.name != "posix"):
        webbrowser.open(url)
