"""Builds HTTP responses, and checks requests before they are handled."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeAlias
from urllib.parse import quote

from aiohttp import web

from receiver.signalling.trickle import SDPFRAG

MAX_NAME = 256
"""Characters of a room's name."""


END = "{end:/?}"
"""End of the path of an endpoint or a session: a trailing slash makes no difference."""


HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every response. The page's files may be cached, but must be revalidated."""


Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


def check_encoding(request: web.Request) -> None:
    """Raises HTTP 415 for a body that is compressed (RFC 9110, section 8.4)."""
    encodings = ",".join(request.headers.getall("Content-Encoding", ())).lower().split(",")
    if not {encoding.strip() for encoding in encodings} <= {"", "identity"}:
        raise web.HTTPUnsupportedMediaType(text="send the body without a Content-Encoding")


def check_name(request: web.Request) -> None:
    """Raises HTTP 400 for a room name that is too long or that no URL can have.

    Clients remove `.` and `..`, escaped or not, from a path (RFC 3986, section 5.2.4): the URL of
    such a room's session would be the URL of another one.
    """
    name = request.match_info.get("name", "")
    if name in (".", ".."):
        raise web.HTTPBadRequest(text=f"a room cannot be called {name!r}: use another name")
    if len(name) > MAX_NAME:
        sentence = f"a room's name has at most {MAX_NAME} characters: use a shorter one"
        raise web.HTTPBadRequest(text=sentence)


async def sdp_body(request: web.Request) -> bytes:
    """Returns the request's body. Raises HTTP 415 for another content type, 413 if too large."""
    if request.content_type != "application/sdp":
        raise web.HTTPUnsupportedMediaType(text="send the offer as Content-Type: application/sdp")
    return await request.read()


def created(protocol: str, name: str, session: str, sdp: str) -> web.Response:
    """Builds the answer to an offer (RFC 9725, section 4.2).

    A session has the same ICE session all its life, so that `session` is also the ETag.
    """
    location = f"/{protocol}/{quote(name, safe='')}/{session}"
    headers = {"Location": location, "ETag": f'"{session}"'}
    return web.Response(status=201, text=sdp, content_type="application/sdp", headers=headers)


def options(request: web.Request) -> web.Response:
    """Builds the answer to OPTIONS (RFC 9110, section 9.3.7); it is the same for every room."""
    headers = {"Accept-Post": "application/sdp"}
    why_not = request.match_info.http_exception
    if isinstance(why_not, web.HTTPMethodNotAllowed):
        headers["Allow"] = allow(why_not.allowed_methods)
        if "PATCH" in why_not.allowed_methods:
            headers["Accept-Patch"] = SDPFRAG  # RFC 5789, section 3.1
    return web.Response(status=204, headers=headers)


def allow(methods: Iterable[str]) -> str:
    """Returns the value of an Allow header; OPTIONS is allowed everywhere."""
    return ", ".join(sorted({*methods, "OPTIONS"}))


def refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Builds a response whose body is one sentence."""
    return web.Response(status=status, text=sentence + "\n", headers=headers)


def static(text: str, kind: str) -> Handler:
    """Returns a handler that always answers with `text`, whose media type is `kind`."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type=kind, headers={"Cache-Control": "no-cache"})

    return handler
