"""What a keeper has written into a picture's XMP, and what of it still holds for an altered one.

Kept is what describes the work and its rights: title, maker, description, credit line, licence. Left out is what
describes the file (dimensions, orientation, editing history, thumbnails), because it is another file now.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

log = logging.getLogger(__name__)

MAX_PACKET = 4 * 1024 * 1024
"""Longest packet that is read, in bytes. Of a much edited picture's, most is history."""

MAX_BYTES = 24_576
"""Most that is kept of it: with ours it must fit into one segment of a JPEG, 64 KB."""

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"

NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "cc": "http://creativecommons.org/ns#",
    "vra": "http://www.vraweb.org/vracore/vracore3.htm",
}
"""Vocabularies whose statements are kept."""

REPLACED = {
    "{http://purl.org/dc/elements/1.1/}format",
    "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType",
    *(f"{{{NAMESPACES['photoshop']}}}{name}" for name in ("History", "DocumentAncestors", "TextLayers", "ICCProfile")),
}
"""Statements of these vocabularies about the file, or which ours replace."""

for _prefix, _address in NAMESPACES.items():
    ElementTree.register_namespace(_prefix, _address)


class SourceXmp:
    """The statements of a packet from an untrusted file.

    Args:
        packet: as found in the file, or nothing. One that cannot be read is ignored with a warning; of one that says
            more than MAX_BYTES the longest statements are.
    """

    def __init__(self, packet: bytes):
        self._statements = _statements(packet) if packet else ()

    def description(self) -> dict[str, str]:
        """Returns what the keeper says of the work, by language ("x-default" where none is named)."""
        found: dict[str, str] = {}
        for statement in self._statements:
            if statement.tag == DESCRIPTION:
                items = list(statement.iter(f"{RDF}li")) or [statement]
                found |= {item.get(LANGUAGE, "x-default"): (item.text or "").strip() for item in items}
        return {language: text for language, text in found.items() if text}

    def kept(self) -> str:
        """Returns all other statements that still hold, as XML that may stand in an rdf:Description."""
        return "\n".join(_xml(statement) for statement in self._statements if statement.tag != DESCRIPTION)


class _WithoutDtd(ElementTree.TreeBuilder):
    """XMP needs neither a DTD nor entities, and bombs are made of them."""

    def doctype(self, name: str, pubid: str, system: str) -> None:
        raise ElementTree.ParseError("it has a DTD")


@lru_cache(maxsize=4)  # each file of a sweep asks for those of its source
def _statements(packet: bytes) -> tuple[Element, ...]:
    """Reads the statements in the vocabularies of NAMESPACES that still hold, and as many as fit."""
    if len(packet) > MAX_PACKET:
        log.warning("XMP block ignored: %d bytes long, at most %d are read", len(packet), MAX_PACKET)
        return ()
    try:
        tree = ElementTree.fromstring(packet.strip(b"\0 \r\n\t"), ElementTree.XMLParser(target=_WithoutDtd()))
    except ElementTree.ParseError as error:
        log.warning("XMP block ignored: %s", error)
        return ()
    wanted = tuple(f"{{{address}}}" for address in NAMESPACES.values())
    found: list[Element] = []
    for block in tree.iter(f"{RDF}RDF"):
        for node in block.findall(f"{RDF}Description"):
            # Plain values may also be written as attributes of the node.
            for name, value in node.attrib.items():
                found.append(Element(name))
                found[-1].text = value
            found += node
    return _fitting([each for each in found if each.tag.startswith(wanted) and each.tag not in REPLACED])


def _fitting(statements: list[Element]) -> tuple[Element, ...]:
    kept: set[Element] = set()
    room = MAX_BYTES
    for statement in sorted(statements, key=_length):
        room -= _length(statement)
        if room < 0:
            log.warning("%d of %d XMP statements left out, the longest", len(statements) - len(kept), len(statements))
            break
        kept.add(statement)
    return tuple(statement for statement in statements if statement in kept)


def _length(statement: Element) -> int:
    return len(_xml(statement).encode()) + 1


def _xml(statement: Element) -> str:
    return ElementTree.tostring(statement, encoding="unicode").strip()
