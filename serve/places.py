"""Where a batch may read and write: below the prefixes that the operator has listed, and nowhere else.

A caller's address must not make the cluster read its own disk, its own network, or the cloud's metadata server.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from capricious.data.collections import web
from capricious.data.places import Places

WEB = ("http", "https")
SCHEMES = ("", "s3", *WEB)


@dataclass(frozen=True)
class Prefix:
    """One allowed prefix.

    Attributes:
        scheme: "" for a local path, "s3", "http" or "https".
        host: bucket or host with port; "" for a local path.
        path: without a slash at its end.
    """

    scheme: str
    host: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Prefix:
        """Reads s3://bucket/folder, https://host/path or /an/absolute/folder.

        Raises:
            ValueError: it is something else, or not in its plainest form; the message says what was found.
        """
        if any(ord(character) < 33 or character in "\\?#*" for character in text):
            raise ValueError(f"an address must have no spaces, backslashes, ?, # or *, found: {text!r}")
        parts = urlsplit(text)
        if parts.scheme not in SCHEMES or (parts.scheme == "") != text.startswith("/") or text.startswith("//"):
            raise ValueError(f"an address must begin with s3://, https://, http:// or /, found: {text!r}")
        if parts.scheme and (not parts.hostname or "@" in parts.netloc):
            raise ValueError(f"an address must name a {'bucket' if parts.scheme == 's3' else 'host'}, found: {text!r}")
        path = parts.path.rstrip("/")
        if unquote(path) != path or (path and posixpath.normpath(path) != path):
            raise ValueError(f"an address must be written without .., //, . and % escapes, found: {text!r}")
        if parts.scheme in WEB and _is_private(parts.hostname or ""):
            raise ValueError(f"an address must not lead into a private network, found: {text!r}")
        return cls(parts.scheme, parts.netloc.lower(), path)

    def holds(self, other: Prefix) -> bool:
        """Says whether an address is this prefix or below it; s3://museum does not hold s3://museum-private."""
        if (self.scheme, self.host) != (other.scheme, other.host):
            return False
        return other.path == self.path or other.path.startswith(f"{self.path}/")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}/" if self.scheme else f"{self.path}/"


def check_place(text: str, allowed: Sequence[Prefix], schemes: Sequence[str] = SCHEMES) -> str:
    """Returns the address if a batch may go there. What is found there is not trusted either: the job itself refuses
    a redirect to a host that is not allowed (capricious.data.collections.web), and pictures that a table names or a
    link leads to elsewhere (cluster.render_config.Gate).

    Raises:
        ValueError: it may not; the message says what is allowed.
    """
    place = Prefix.parse(text)
    within = any(prefix.holds(place) for prefix in allowed)
    if not place.scheme and within:
        within = Places([str(prefix) for prefix in allowed]).hold(text)  # with links followed
    if place.scheme not in schemes or not within:
        usable = ", ".join(str(prefix) for prefix in allowed if prefix.scheme in schemes) or "nothing"
        raise ValueError(f"an address must be below {usable}; found: {text!r}")
    return text


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith((".localhost", ".internal", ".local")):
        return True
    try:
        return not web.is_public(host)
    except ValueError:
        # Integers and short forms such as 127.1 are addresses to many resolvers.
        return host.replace(".", "").isdecimal() or host.startswith("0x")
