"""Files from the web, from hosts that are allowed only.

Others may have written the addresses: a IIIF manifest must not make this machine ask its own network. So hosts must be
on a list, an address in a private network must be on it by its very name, and both hold after every redirect.
"""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote, urlsplit

from capricious.errors import ConfigError, Rejection

ALLOWED_HOSTS = "CAPRICIOUS_ALLOWED_HOSTS"
"""Environment variable: hosts separated by commas; ``*.museum.org`` stands for all hosts below museum.org."""

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""
PATIENCE = 600.0
"""Seconds that one file may take, all attempts together."""
ATTEMPTS = 5
_TRY_AGAIN = (429, 500, 502, 503, 504)
_IPV4_AT_THE_END = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96")))
"""Compatible and mapped addresses (RFC 4291), and those that a translator sends on to an IPv4 network (RFC 6052)."""
_USER_AGENT = "capricious (portrait collections over IIIF)"


@dataclass(frozen=True)
class AllowedHosts:
    """Which hosts may be asked.

    Attributes:
        listed: names, and ``*.``-patterns. A name that is listed may lead to a private address, too.
        own: host of the collection itself: allowed, but not in a private network; or empty.
    """

    listed: tuple[str, ...]
    own: str = ""

    @classmethod
    def from_environment(cls, own: str = "") -> AllowedHosts:
        """Reads CAPRICIOUS_ALLOWED_HOSTS.

        Raises:
            ConfigError: an entry is no host and no pattern.
        """
        listed = tuple(filter(None, (part.strip().lower() for part in os.environ.get(ALLOWED_HOSTS, "").split(","))))
        for entry in listed:
            if "*" in entry.removeprefix("*.") or "/" in entry:
                raise ConfigError(
                    f"{ALLOWED_HOSTS} takes hosts such as iiif.museum.org or *.museum.org, found: {entry}"
                )
        return cls(listed, own.lower())

    def check(self, url: str) -> None:
        """Refuses an address before anything is sent to it.

        Raises:
            Rejection: not http(s), a host that is not allowed, or an address in a private network.
        """
        host = host_of(url)
        if not is_url(url) or not host or urlsplit(url).username is not None:
            raise Rejection("read", "bad-address", f"must be http://host/… or https://host/…, found: {url}")
        if not (host == self.own or host in self.listed or self._matches_pattern(host)):
            detail = f"{host} is not among the allowed hosts; allow it by {ALLOWED_HOSTS}={host}"
            raise Rejection("read", "host-not-allowed", detail)
        if _is_address(host):
            self.check_peer(host, host)

    def check_peer(self, host: str, address: str) -> None:
        """Refuses a host whose name has led to a private address.

        Raises:
            Rejection: the address is not public, and the host is not listed by name.
        """
        if host not in self.listed and not is_public(address):
            detail = f"{host} is in a private network ({address}); allow it by {ALLOWED_HOSTS}={host}"
            raise Rejection("read", "host-not-allowed", detail)

    def _matches_pattern(self, host: str) -> bool:
        return any(entry.startswith("*.") and host.endswith(entry[1:]) for entry in self.listed)


def is_url(uri: str) -> bool:
    """Says whether an address is one of the web."""
    return uri.lower().startswith(("http://", "https://"))


def is_public(address: str) -> bool:
    """Says whether an IP address is one of the internet's, and not a way into an IPv4 network that is not.

    Raises:
        ValueError: it is no IP address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if any(found in network for network in _IPV4_AT_THE_END):
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        else:
            found = found.sixtofour or found
    return found.is_global and not found.is_multicast


def host_of(url: str) -> str:
    """Returns the host of a URL in lower case, or an empty text."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def fetch(url: str, allowed: AllowedHosts, max_bytes: int) -> bytes:
    """Returns what is at a URL. Tries again, ever later, when the server is busy or the connection breaks.

    Raises:
        Rejection: the host is not allowed (`url`'s, or one that it redirects to), or there are too many bytes.
        OSError: not there (FileNotFoundError), or not to be had in ATTEMPTS and PATIENCE.
    """
    allowed.check(url)
    deadline = time.monotonic() + PATIENCE
    for attempt in range(ATTEMPTS):
        wait = 2.0**attempt
        try:
            return _fetch_once(url, allowed, max_bytes, deadline)
        except urllib.error.HTTPError as error:
            error.close()
            failure = f"the server answers {error.code} {error.reason}"
            if error.code in (404, 410):
                raise FileNotFoundError(f"{url}: {failure}") from error
            if error.code not in _TRY_AGAIN:
                raise OSError(f"{url}: {failure}") from error
            wait = _retry_after(error, wait)
        except (http.client.HTTPException, OSError) as error:
            failure = str(error)
        if attempt + 1 == ATTEMPTS or time.monotonic() + wait > deadline:
            break
        time.sleep(wait)
    raise OSError(f"{url}: gave up after {attempt + 1} attempts: {failure}")


def _fetch_once(url: str, allowed: AllowedHosts, max_bytes: int, deadline: float) -> bytes:
    try:
        # Identifiers with spaces or accents are common, and not allowed in a request as they are.
        request = urllib.request.Request(quote(url, safe="%/:=&?~#+!$,;'@()*[]"), headers={"User-Agent": _USER_AGENT})
        response = _opener(allowed).open(request, timeout=TIMEOUT)
    except (ValueError, http.client.InvalidURL) as error:
        raise Rejection("read", "bad-address", f"{url}: {error}") from error
    chunks, size = [], 0
    with response:
        while chunk := response.read(2**16):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise Rejection("read", "too-many-bytes", f"{url} has more than {max_bytes} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {size} bytes came in {PATIENCE:.0f} s")
        promised = response.headers.get("Content-Length")
    if promised is not None and size < int(promised):  # http.client is silent about it
        raise OSError(f"the connection broke after {size} of {promised} bytes")
    return b"".join(chunks)


def _retry_after(error: urllib.error.HTTPError, default: float) -> float:
    """Reads Retry-After (RFC 9110, 10.2.3): seconds, or a date."""
    text = error.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return default


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


@lru_cache(maxsize=16)
def _opener(allowed: AllowedHosts) -> urllib.request.OpenerDirector:
    """Opens http and https only (the standard opener takes file: and ftp:, too), by the user's proxies if any."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Plain(allowed),
        _Secure(allowed),
        _Redirects(allowed),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, allowed: AllowedHosts):
        super().__init__()
        self.allowed = allowed

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_PlainConnection, allowed=self.allowed), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, allowed: AllowedHosts):
        self.certificates = ssl.create_default_context()
        super().__init__(context=self.certificates)
        self.allowed = allowed

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        connection = partial(_SecureConnection, allowed=self.allowed, context=self.certificates)
        return self.do_open(connection, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, allowed: AllowedHosts):
        self.allowed = allowed

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        self.allowed.check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _PlainConnection(http.client.HTTPConnection):
    def __init__(self, host: str, allowed: AllowedHosts, **options: Any):
        super().__init__(host, **options)
        self.allowed = allowed

    def connect(self) -> None:
        super().connect()
        _check_peer(self, self.allowed)


class _SecureConnection(_PlainConnection, http.client.HTTPSConnection):
    """The same over TLS."""


def _check_peer(connection: http.client.HTTPConnection, allowed: AllowedHosts) -> None:
    """Checks after connecting and before asking: a name may lead elsewhere now than when it was looked up."""
    proxies = {host_of(address) for address in urllib.request.getproxies().values()}
    if connection.host in proxies:  # the user's own choice; it looks names up itself
        return
    try:
        allowed.check_peer(connection.host.rstrip(".").lower(), connection.sock.getpeername()[0])
    except Rejection:
        connection.close()
        raise
