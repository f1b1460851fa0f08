"""Serves the page on this machine until it is stopped."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import tempfile
import webbrowser
from importlib.util import find_spec
from pathlib import Path

from collabedit.errors import InputError, MissingExtraError
from collabedit.ui.access import HOST, Access, address

__all__ = ["free_port", "require_nicegui", "serve"]

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" '
    'rx="7" fill="#0757b8"/><path d="M7 10h18M7 16h12M7 22h8" stroke="#fff" stroke-width="3" '
    'stroke-linecap="round"/><circle cx="23" cy="22" r="3" fill="#fff"/></svg>'
)


def require_nicegui() -> None:
    """Check that NiceGUI is installed.

    Raises:
        MissingExtraError: when it is not; it says what to install.
    """
    if find_spec("nicegui") is None:
        raise MissingExtraError("nicegui", "ui", "the page")


def free_port(wanted: int = 0) -> int:
    """A free port on the loopback interface.

    Args:
        wanted: the port to check; 0 for any.

    Raises:
        InputError: when it is taken, or can't be used.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name == "posix":  # on other systems this would let two servers share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "is taken" if taken else f"cannot be used ({error.strerror or error})"
            raise InputError(
                f"--port: {wanted} {reason}; choose another, or leave it out"
            ) from None
        return int(probe.getsockname()[1])


def serve(results: Path, *, port: int = 0, open_browser: bool = True) -> None:
    """Serve the page on the loopback interface until Ctrl-C.

    Args:
        results: the folder whose runs the Reports tab lists.
        port: the port to listen on; 0 for any free one.
        open_browser: open the page in the user's browser.

    Raises:
        MissingExtraError: without NiceGUI.
        InputError: when the port is taken.
    """
    require_nicegui()
    chosen, token = free_port(port), secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="collabedit-ui-") as scratch:
        # NiceGUI would otherwise make a storage folder in the working directory, which stays empty
        os.environ.setdefault("NICEGUI_STORAGE_PATH", str(Path(scratch) / "storage"))
        _run(results, Path(scratch), chosen, token, open_browser)


def _run(results: Path, scratch: Path, port: int, token: str, open_browser: bool) -> None:
    from nicegui import app, ui

    from collabedit.ui.page import Desk

    desk = Desk.new(results, scratch)
    url = address(port, token)

    def started() -> None:
        print(f"The page: {url}", flush=True)
        print("It opens only on this machine, at this address. Press Ctrl-C to stop.", flush=True)
        if open_browser:
            webbrowser.open(url)

    app.add_middleware(Access, token=token, port=port)
    app.on_startup(started)
    app.on_shutdown(desk.close)
    desk.add_routes()
    ui.run(
        desk.build,
        host=HOST,
        port=port,
        title="collabedit",
        favicon=_ICON,
        dark=None,  # as the browser prefers
        language="en-US",
        reload=False,
        show=False,
        tailwind=False,
        show_welcome_message=False,
        gzip_middleware_factory=None,  # nothing leaves the machine
        binding_refresh_interval=None,  # nothing is bound
        reconnect_timeout=30.0,
        access_log=False,
    )
