"""A web server on this machine that misbehaves as it is told, and what it was asked."""

import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from waiting import TOO_LONG


@dataclass
class Page:
    """A file on the server."""

    content: bytes
    etag: str = '"1"'
    ranges: bool = True
    """Whether it knows ranges; if not it sends the whole whatever was asked."""
    says_size: bool = True
    heads: bool = True
    """Whether it answers HEAD."""
    statuses: list[int] = field(default_factory=list)
    """What the next answers are, instead of the file."""
    breaks: list[int] = field(default_factory=list)
    """After how many bytes the next answers break off."""
    stalls: list[int] = field(default_factory=list)
    """After how many bytes the next answers say nothing more."""


class Server(ThreadingHTTPServer):
    """`pages` by path; `asked` has (method, path, range) of every question so far."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages, self.asked, self.closing = {}, [], threading.Event()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def put(self, name, content, **traits):
        self.pages[f"/{name}"] = Page(content, **traits)
        return self.url(name)

    def ranges(self, name):
        """Return the ranges of the file that were asked for, in turn."""
        return [span for method, path, span in self.asked if (method, path) == ("GET", f"/{name}")]

    def handle_error(self, request, client_address):
        """Says nothing: a client that is killed closes its connection."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        span = self.headers.get("Range")
        self.server.asked.append((self.command, self.path, span))
        page = self.server.pages.get(self.path)
        if page is None or (self.command == "HEAD" and not page.heads):
            return self.send_error(405 if page else 404)
        if page.statuses:
            return self.send_error(page.statuses.pop(0))
        start = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span and page.ranges else 0
        if start and start >= len(page.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
        if page.says_size:
            self.send_header("Content-Length", str(len(page.content) - start))
        self.send_header("ETag", page.etag)
        self.end_headers()
        return self.send_content(page, start) if self.command == "GET" else None

    def send_content(self, page, start):
        stalls = page.stalls.pop(0) if page.stalls else None
        breaks = page.breaks.pop(0) if page.breaks else None
        end = next((start + end for end in (stalls, breaks) if end is not None), len(page.content))
        self.wfile.write(page.content[start:end])
        if stalls is not None:
            self.wfile.flush()
            self.server.closing.wait(TOO_LONG)


@contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
