"""Who may ask, and what browsers are told: around every request of the review.

- The `Host` is one of this machine's names: a page elsewhere whose name is made to point here (DNS rebinding) is refused.
- What changes something comes from a page of this review: `Sec-Fetch-Site`, or `Origin` where a browser sends none.
- Beyond this machine a token is needed, once in the address and then in a cookie that scripts do not see and other sites do not send.
- Headers: nothing but this server's own files, no frames, no guessing of types.
"""

import ipaddress
import socket
from dataclasses import dataclass
from secrets import compare_digest, token_urlsafe
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SAFE_METHODS = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LET_IN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>pixeltrust review</title>
<link rel="icon" href="/static/icon.svg">
<meta http-equiv="refresh" content="0;url=/"></head><body><p><a href="/">Go on to the review</a></p></body></html>"""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Door:
    """Which hosts are answered to, and the token that is asked for."""

    hosts: frozenset[str]
    addresses: bool = False
    """Whether any IP address will do for a host: a rebound page always has a name."""
    token: str | None = None

    @classmethod
    def of(cls, host: str) -> "Door":
        """For an address to listen on; with a new random token where others can reach it."""
        if is_loopback(host):
            return cls(hosts=frozenset({*LOOPBACK, host.lower()}))
        names = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        return cls(hosts=frozenset({*LOOPBACK, *names}), addresses=True, token=token_urlsafe(32))

    def lets(self, host: str) -> bool:
        """Whether a `Host` header names this server."""
        name = _name_of(host)
        return name in self.hosts or (self.addresses and _is_address(name))


class Guard:
    """ASGI middleware that keeps the door."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # nothing here speaks anything else

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                answered.update(HEADERS)
                answered.setdefault("Cache-Control", "no-cache")  # of scripts: kept, and asked after
            await send(message)

        answer = self._answer(scope, Headers(scope=scope))
        await (answer or self.app)(scope, receive, with_headers)

    def _answer(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to whoever is not let in, or is on the threshold."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self.door.lets(host):
            return PlainTextResponse("This review answers only to the address it printed.", 421)
        if self.door.token is not None and (answer := self._without_token(scope, headers, self.door.token)):
            return answer
        if scope["method"] not in SAFE_METHODS and not _of_this_origin(headers, scope["scheme"], host):
            return PlainTextResponse("A change must come from a page of this review.", 403)
        return None

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        cookie = f"pixeltrust-review-{(scope.get('server') or ('', 0))[1]}"  # cookies do not tell ports apart
        # Cookies of other servers on this host come along, of any form: the strict parser of the standard library gives up on those.
        if _same(cookie_parser(headers.get("cookie", "")).get(cookie, ""), token):
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["method"] in SAFE_METHODS and scope["path"] == "/" and _same(asked, token):
            # A page and no redirection: after a link in a message, a redirection would count as the other site's and go without the cookie.
            answer = HTMLResponse(_LET_IN, headers={"Cache-Control": "no-store"})
            answer.set_cookie(cookie, token, httponly=True, samesite="strict", path="/")
            return answer
        return PlainTextResponse("Open the address with its token, which `pixeltrust review` printed.", 401)


def _same(one: str, other: str) -> bool:
    return compare_digest(one.encode(), other.encode())


def _of_this_origin(headers: Headers, scheme: str, host: str) -> bool:
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    if origin is None:
        return site == "same-origin"
    return origin.lower() == f"{scheme}://{host}".lower()


def _name_of(host: str) -> str:
    """The host of a `Host` header without its port, or nothing."""
    try:
        parts = urlsplit(f"//{host}")
        return (parts.hostname or "").lower() if parts.netloc == host and "@" not in host else ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
