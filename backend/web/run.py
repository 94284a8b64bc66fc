"""Serve the studio with uvicorn until Ctrl-C: the port checked first, the address written for the command line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
import webbrowser

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
GRACE_S = 3  # open downloads and event streams may finish for this long after Ctrl-C


def run_server(settings: Settings, host: str | None, port: int, *, lan: bool, open_browser: bool) -> None:
    """Serve until a signal ends it; with `lan` also to the network, by token. Raises StudioBusy for a taken port."""
    host = host or (EVERY_ADDRESS if lan else "127.0.0.1")
    check_port(settings, host, port)
    shown = "localhost" if host in ("127.0.0.1", "localhost", EVERY_ADDRESS) else host
    url = f"http://{shown}:{port}"
    logs.write_to_terminal()
    _allow_many_files()
    shared_generator(settings)  # here, so that a data folder in use is one sentence, not a failed start of the server
    hosts, token = {*LOOPBACK_HOSTS, host}, None
    if lan:
        hosts |= names_of_this_machine()
        token = _show_token(settings, port)
    app = create_app(settings, hosts, token)
    config = uvicorn.Config(
        app,
        http=HeaderTimeoutProtocol,
        host=host,
        port=port,
        log_level="warning",
        log_config=None,  # its lines go where all others do, the file included
        timeout_graceful_shutdown=GRACE_S,
        ws_max_size=64 * 2**20,
        server_header=False,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_announce, args=(server, settings, url, open_browser), daemon=True).start()
    try:
        server.run()
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


def check_port(settings: Settings, host: str, port: int) -> None:
    """Raise StudioBusy if something already listens there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
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
