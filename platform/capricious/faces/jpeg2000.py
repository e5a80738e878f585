"""What the headers of a JPEG 2000 say and Pillow passes over: the colour profile, and the bits per channel."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_CODESTREAM = b"\xff\x4f\xff\x51"
"""Its first two markers: start, and size of the picture."""

_DEPTH = 42
"""Where in a codestream the depth of the first channel stands, less one; its highest bit is the sign's."""

_ICC_METHODS = (2, 3)
"""Of a colour specification: a restricted profile (JP2), any profile (JPX)."""


def icc_profile(data: bytes) -> bytes | None:
    """Returns the embedded ICC profile, or None if there is none."""
    for kind, header in _boxes(memoryview(data)):
        if kind == b"jp2h":
            for inner, colours in _boxes(header):
                if inner == b"colr" and colours[:1] and colours[0] in _ICC_METHODS:
                    return bytes(colours[3:])  # behind method, precedence, approximation
    return None


def bits_per_channel(data: bytes) -> int:
    """Returns the bits of the first channel, 8 where nothing says it."""
    whole = memoryview(data)
    bare = data.startswith(_CODESTREAM)
    stream = whole if bare else next((content for kind, content in _boxes(whole) if kind == b"jp2c"), whole[:0])
    return (stream[_DEPTH] & 0x7F) + 1 if len(stream) > _DEPTH else 8


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the type and content of each box. Its length takes 4 bytes; 1 says that 8 more do, 0 all that is left."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= len(data):
            length, head = *struct.unpack_from(">Q", data, at + 8), 16
        length = length or len(data) - at
        if length < head:
            return
        yield kind, data[at + head : at + length]
        at += length
