"""`pixeltrust review`: the server, from its start to Ctrl-C."""

import errno
import getpass
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import uvicorn

from pixeltrust.auditing.blank import find_audit
from pixeltrust.auditing.folder import Audit
from pixeltrust.data.layouts import Layout
from pixeltrust.plumbing.errors import ConfigError, RunError
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count
from pixeltrust.reviewing.access import AccessPolicy, is_loopback
from pixeltrust.reviewing.decisions import FILE, Decisions, clean_name
from pixeltrust.reviewing.pages import application
from pixeltrust.reviewing.queue import ALL, UNDECIDED, Queue

PORT = 8765
_LAST_SECONDS = 3  # that running requests have to finish when the review ends


@dataclass(frozen=True, kw_only=True, repr=False)
class ReviewSummary(Summary):
    """The progress of a review."""

    audit: Path
    counts: dict[str, int]
    """The number of cases by their decision in force, and of `all`."""

    def __str__(self) -> str:
        total, left = self.counts[ALL], self.counts[UNDECIDED]
        parts = ", ".join(f"{number:,} {name}" for name, number in self.counts.items() if number and name not in (ALL, UNDECIDED))
        done = f"{total - left:,} of {count(total, 'case')} decided" + (f" ({parts})" if parts else "")
        return f"{self.audit}: {done}; the decisions are in {self.audit / FILE}"


def review(
    folder: Path,
    *,
    out: Path | None = None,
    classes: int | None = None,
    ignore_label: int | None = None,
    seed: int = 0,
    host: str = "127.0.0.1",
    port: int = PORT,
    who: str | None = None,
    open_browser: bool = False,
    announce: Callable[[str], None] = print,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> ReviewSummary:
    """Serve the pages to go through noisy masks, until Ctrl-C: the doubtful ones of an audit first, of plain data a random sample.

    Example:
        pixeltrust.review("mended", open_browser=True)  # serves until Ctrl-C

    Args:
        folder: a folder that `audit` or `mend` made; or a data folder or table of cases, for which such a folder is made, without
            judgements. review.sqlite, .thumbnails/ and .mending/ are made in it.
        out: the folder that is made for data, and gone on with the next time; `<name>-review` beside them where not given.
        classes: of the data, as in `Config`; those of dataset.json in a dataset of nnU-Net, where not given.
        ignore_label: of the data, as in `Config`; that of dataset.json in a dataset of nnU-Net, where not given.
        seed: of the order of the cases of data.
        host: the address to listen on; beyond this machine a token is required, which is part of the announced address.
        port: the port to listen on; 0 for any free one.
        who: the name written to decisions unless a person enters another one on the page; the login name if not given.
        open_browser: open the page in the default browser.
        announce: called with the address once the server answers.
        show_progress: a progress bar on standard error, while a folder is made.
        layout: how a data folder differs from the usual, as for `read_cases`.

    Raises:
        DataError: the data, or the tables of the audit, have faults.
        RunError: the folder is an audit that has not finished, or of a later version, or was begun otherwise; the port is in use; or
            review.sqlite cannot be used.
        ConfigError: `who` is not a name; or an audit, which knows its data, was given with what is for data.
    """
    name = _name(who)
    audit = Audit.read(
        find_audit(folder, out=out, classes=classes, ignore_label=ignore_label, seed=seed, show_progress=show_progress, **layout)
    )
    decisions = Decisions(audit)
    try:
        with _listening(host, port) as listener:
            policy = AccessPolicy.of(host)
            address = _address(host, listener.getsockname()[1], policy.token)
            server = uvicorn.Server(uvicorn.Config(application(audit, decisions, policy=policy, who=name), **_SETTINGS))
            over = threading.Event()
            threading.Thread(target=_once_started, args=(server, over, address, audit.folder, announce, open_browser), daemon=True).start()
            with suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean shutdown
                server.run(sockets=[listener])
            over.set()
        return ReviewSummary(audit=audit.folder, counts=Queue(decisions).counts())
    finally:
        decisions.close()


_SETTINGS: dict = {
    "log_level": "warning",
    "access_log": False,
    "lifespan": "on",
    "server_header": False,
    "timeout_graceful_shutdown": _LAST_SECONDS,
    "ws": "none",
}


def _once_started(
    server: uvicorn.Server, over: threading.Event, address: str, folder: Path, announce: Callable[[str], None], open_browser: bool
) -> None:
    while not server.started:
        if over.wait(0.02):
            return
    announce(f"the review is at {address}\nCtrl-C ends it; all decisions are saved in {folder}")
    if open_browser:
        webbrowser.open(address)


def _name(who: str | None) -> str:
    if who is None:
        try:
            who = getpass.getuser()
        except (OSError, KeyError, ImportError):  # a process without a login
            who = "reviewer"
    try:
        return clean_name(who)
    except ValueError as error:
        raise ConfigError(f"who: {error}, not {who!r}") from None


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
        # asyncio sets this only on sockets with an explicit protocol; without it every body waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RunError(f"port {port} of {host} is in use; choose another one with --port (0: any free one)") from None
        raise RunError(f"{host}, port {port}: cannot be listened on: {error.strerror or error}") from None
    except OverflowError:
        raise RunError(f"port {port}: a number from 0 to 65535") from None


def _address(host: str, port: int, token: str | None) -> str:
    name = host
    if host in ("0.0.0.0", "::", ""):  # all addresses: by the name that other machines may know
        name = socket.getfqdn()
        name = socket.gethostname() if is_loopback(name) else name
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
