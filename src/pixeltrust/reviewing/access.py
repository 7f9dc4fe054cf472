"""Access to the review: a check of every request, and headers on every response.

- The `Host` must be one of this machine's names: a page elsewhere whose name is made to point here (DNS rebinding) is refused.
- A change must come from a page of this review: `Sec-Fetch-Site`, or `Origin` if the browser sends none.
- Beyond this machine a token is needed, once in the address and then in a cookie that scripts do not see and other sites do not send.
- Headers: nothing but this server's own files, no frames, no guessing of types.
"""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
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
<meta http-equiv="refresh" content="0;url=/"></head><body><p><a href="/">Continue to the review</a></p></body></html>"""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    address = _parse_address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def _parse_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True, kw_only=True)
class AccessPolicy:
    """The host names that are accepted, and the token that is required."""

    hosts: frozenset[str]
    addresses: bool = False
    """Whether any IP address is accepted as a host: a rebound page always has a name."""
    token: str | None = None

    @classmethod
    def of(cls, host: str) -> "AccessPolicy":
        """Return the policy for an address to listen on; with a new random token if other machines can reach it."""
        if is_loopback(host):
            return cls(hosts=frozenset({*LOOPBACK, host.lower()}))
        names = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        return cls(hosts=frozenset({*LOOPBACK, *names}), addresses=True, token=token_urlsafe(32))

    def accepts(self, host: str) -> bool:
        """Return whether a `Host` header names this server."""
        name = _name_of(host)
        return name in self.hosts or (self.addresses and _parse_address(name) is not None)


class AccessMiddleware:
    """ASGI middleware that enforces the policy."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        self.app, self.policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no other connections here

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                answered.update(HEADERS)
                answered.setdefault("Cache-Control", "no-cache")  # scripts are cached and revalidated
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        await (refusal or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the response to a request that is not let through; the page that sets the cookie included."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self.policy.accepts(host):
            return PlainTextResponse("This review answers only to the address it printed.", 421)
        if self.policy.token is not None and (refusal := self._without_token(scope, headers, self.policy.token)):
            return refusal
        if scope["method"] not in SAFE_METHODS and not _is_same_origin(headers, scope["scheme"], host):
            return PlainTextResponse("A change must come from a page of this review.", 403)
        return None

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        cookie = f"pixeltrust-review-{(scope.get('server') or ('', 0))[1]}"  # cookies ignore the port
        # Cookies of other servers on this host come along, in any form: the strict parser of the standard library rejects some.
        if _same(cookie_parser(headers.get("cookie", "")).get(cookie, ""), token):
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["method"] in SAFE_METHODS and scope["path"] == "/" and _same(asked, token):
            # A page, not a redirection: after a link in a message, browsers treat a redirection as the other site's and send no cookie.
            answer = HTMLResponse(_LET_IN, headers={"Cache-Control": "no-store"})
            answer.set_cookie(cookie, token, httponly=True, samesite="strict", path="/")
            return answer
        return PlainTextResponse("Open the address with its token, which `pixeltrust review` printed.", 401)


def _same(one: str, other: str) -> bool:
    return compare_digest(one.encode(), other.encode())


def _is_same_origin(headers: Headers, scheme: str, host: str) -> bool:
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    if origin is None:
        return site == "same-origin"
    return origin.lower() == f"{scheme}://{host}".lower()


def _name_of(host: str) -> str:
    """Return the host of a `Host` header without its port; empty if it is invalid."""
    try:
        parts = urlsplit(f"//{host}")
        return (parts.hostname or "").lower() if parts.netloc == host and "@" not in host else ""
    except ValueError:
        return ""
