"""What a rendered file says about itself: that an algorithm altered it, from which source, by which bundle.

The mark is an XMP packet with the IPTC "digital source type" that platforms read to label AI-altered pictures
(https://cv.iptc.org/newscodes/digitalsourcetype/). It is added to files that are already encoded, so no pixel
is touched. It holds no date: the same render gives the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any
from xml.sax.saxutils import escape, quoteattr, unescape

from PIL import Image

import capricious
from capricious.faces.attributes import Attributes
from capricious.faces.tiff import with_tags
from capricious.render.source_xmp import SourceXmp
from capricious.render.sweep import Variant

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"

MAX_SITTERS = 100
"""Sitters listed one by one, largest face first. A JPEG segment holds 64 KB; a crowd would not fit."""

NOTICE = "Altered by an algorithm: faces in this picture were re-rendered with changed attributes."

EXTRAPOLATED = "extrapolated: the model has learnt no such age"

_XMP_TAG = 700

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:capricious="urn:capricious:provenance:1:">
<Iptc4xmpExt:DigitalSourceType>{kind}</Iptc4xmpExt:DigitalSourceType>
<dc:description><rdf:Alt>{description}</rdf:Alt></dc:description>
<xmp:CreatorTool>{tool}</xmp:CreatorTool>
<capricious:record>{record}</capricious:record>
{kept}
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


@dataclass(frozen=True)
class Provenance:
    """Where a rendered file comes from.

    Attributes:
        source_sha256: hash of the source picture's file.
        bundle_sha256: name of the model bundle by content.
        variants: the variants in the file; what each sitter looks like in one of them is the sitter's
            own attributes with its changes.
        sitters: attributes of each face as annotated, largest face first.
        source_uri: where the source was read; nothing for an upload.
        extrapolated: names of those variants that are at ages outside of the ones that the bundle has learnt.
        source_xmp: the source's own XMP packet. What in it describes the work is kept.
    """

    source_sha256: str
    bundle_sha256: str
    variants: tuple[Variant, ...]
    sitters: tuple[Attributes, ...]
    source_uri: str = ""
    extrapolated: tuple[str, ...] = ()
    source_xmp: bytes = field(default=b"", repr=False)

    def record(self) -> dict[str, Any]:
        """Returns the facts as plain JSON values; unknown attributes are left out."""
        return {
            **({"source_uri": self.source_uri} if self.source_uri else {}),
            "source_sha256": self.source_sha256,
            "bundle_sha256": self.bundle_sha256,
            "variants": {variant.name: _changes(variant) for variant in self.variants},
            **({"extrapolated": list(self.extrapolated)} if self.extrapolated else {}),
            "faces": len(self.sitters),
            "sitters": [known(sitter) for sitter in self.sitters[:MAX_SITTERS]],
        }

    def packet(self) -> bytes:
        """Returns the XMP packet, UTF-8."""
        record = json.dumps(self.record(), ensure_ascii=False, separators=(",", ":"))
        source = SourceXmp(self.source_xmp)
        described = source.description()
        texts = {"x-default": NOTICE, **{lang: f"{NOTICE} {text}" for lang, text in described.items()}}
        items = "".join(f"<rdf:li xml:lang={quoteattr(lang)}>{escape(text)}</rdf:li>" for lang, text in texts.items())
        return _PACKET.format(
            kind=DIGITAL_SOURCE_TYPE,
            description=items,
            kept=source.kept(),
            tool=f"capricious {capricious.__version__}",
            record=escape(record),
        ).encode()


def _changes(variant: Variant) -> dict[str, Any]:
    return {**variant.changes, **({"style": variant.style} if variant.style else {})}


def known(attributes: Attributes) -> dict[str, Any]:
    """Returns the known attributes as JSON values, rounded to what an estimate is worth."""

    def value(v: Any) -> Any:
        if isinstance(v, float):
            return round(v, 2)
        return [round(p, 2) for p in v] if isinstance(v, tuple) else v

    return {name: value(v) for name, v in asdict(attributes).items() if v is not None}


def stamp(data: bytes, provenance: Provenance) -> bytes:
    """Adds the provenance to an encoded PNG, JPEG, WebP, TIFF (as XMP) or GIF (as a comment).

    Raises:
        ValueError: the bytes are none of these, or the packet is too long for a JPEG.
    """
    packet = provenance.packet()
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _stamp_png(data, packet)
    if data.startswith(b"\xff\xd8\xff"):
        return _stamp_jpeg(data, packet)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _stamp_webp(data, packet)
    if data[:3] == b"GIF":
        return _stamp_gif(data, packet)
    if data.startswith(b"II*\0"):
        return with_tags(data, {_XMP_TAG: packet})
    raise ValueError(
        f"only PNG, JPEG, WebP, GIF and our own TIFF can be stamped, found a file that begins with {data[:12]!r}"
    )


def read_stamp(data: bytes) -> dict[str, Any] | None:
    """Returns the record of a stamped file (as Provenance.record), or None if it is not one of ours."""
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info.get("xmp") or image.info.get("comment") or b""
    found = re.search(r"<capricious:record>(.*?)</capricious:record>", packet.decode("utf-8", "replace"), re.DOTALL)
    return json.loads(unescape(found[1])) if found else None


def _stamp_png(data: bytes, packet: bytes) -> bytes:
    # An international text chunk: keyword, not compressed, no language, no translated keyword (XMP part 3, §1.1.5).
    body = b"iTXt" + b"XML:com.adobe.xmp" + b"\0" * 5 + packet
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    after_header = 8 + 25  # signature, then IHDR, which is always first and 25 bytes long
    return data[:after_header] + chunk + data[after_header:]


def _stamp_jpeg(data: bytes, packet: bytes) -> bytes:
    body = b"http://ns.adobe.com/xap/1.0/\0" + packet
    if len(body) + 2 > 0xFFFF:
        raise ValueError(f"an XMP packet of {len(packet)} bytes does not fit into one JPEG segment")
    at = 2
    if data[2:4] == b"\xff\xe0":  # JFIF wants to be the first segment
        at += 2 + struct.unpack(">H", data[4:6])[0]
    return data[:at] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[at:]


def _stamp_webp(data: bytes, packet: bytes) -> bytes:
    """RFC 9649: metadata needs the extended layout, whose header (VP8X) has a flag for it."""
    has_xmp, has_alpha = 0x04, 0x10
    if data[12:16] == b"VP8X":
        head = data[12:20] + bytes([data[20] | has_xmp]) + data[21:30]
        chunks = data[30:]
    else:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            flags = has_xmp | (has_alpha if image.mode == "RGBA" else 0)
        sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        head = b"VP8X" + struct.pack("<IB3x", 10, flags) + sizes
        chunks = data[12:]
    xmp = b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    body = b"WEBP" + head + chunks + xmp
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _stamp_gif(data: bytes, packet: bytes) -> bytes:
    blocks = b"".join(bytes([len(part)]) + part for part in (packet[i : i + 255] for i in range(0, len(packet), 255)))
    comment = b"\x21\xfe" + blocks + b"\0"
    # After the colour table of the whole file, before the first frame: readers that stop early still see it.
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    return b"GIF89a" + data[6:at] + comment + data[at:]  # the older 87a knows no comments
