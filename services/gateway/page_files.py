"""The web page: plain files of one folder, revalidated by their content's hash, under a strict policy."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import Any

from litestar import HttpMethod, Request, Response, route

from services.gateway.problems import Problem

FOLDER = Path(__file__).parent / "page"  # flat

_HEADERS = {
    "Cache-Control": "no-cache",  # keep it, but ask each time: a new release shows at once
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' blob:; connect-src 'self'; worker-src 'self' blob:; font-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_READ = [HttpMethod.GET, HttpMethod.HEAD]


@route("/", http_method=_READ, include_in_schema=False, sync_to_thread=False)
def index(request: Request[Any, Any, Any]) -> Response[bytes]:
    return _file(request, "index.html")


@route("/page/{name:path}", http_method=_READ, include_in_schema=False, sync_to_thread=False)
def page_file(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
    return _file(request, name.lstrip("/"))


def _file(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
    """The files are few and small, and the kernel has them in memory."""
    if name not in {path.name for path in FOLDER.iterdir()}:
        raise Problem(404, "not_found", f"the page has no file {name[:80]!r}")
    path = FOLDER / name
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
    headers = _HEADERS | {"ETag": etag, "Content-Type": _type_of(path)}
    if request.headers.get("if-none-match") == etag:
        return Response(b"", status_code=304, headers=headers)
    return Response(content, headers=headers)


def _type_of(path: Path) -> str:
    known = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"{known}; charset=utf-8" if known.startswith("text/") else known
