"""What a museum wrote into its file stays in the altered one, and what no longer holds does not. Read by Exiv2."""

import json
import logging

import numpy as np
import pyexiv2
import pytest
from PIL import ExifTags, Image
from skimage.data import astronaut

from capricious.faces.image import encode
from capricious.render.picture import SweepResult
from capricious.render.provenance import DIGITAL_SOURCE_TYPE, Provenance, read_stamp, stamp
from capricious.render.scan import read_scan
from capricious.render.source_xmp import MAX_PACKET, SourceXmp
from capricious.render.sweep import SOURCE, Sweep, Variant


def written(format, values, exif=b""):
    """A picture file with XMP by Exiv2."""
    with pyexiv2.ImageData(encode(astronaut(), format, exif=exif)) as image:
        image.modify_xmp(values)
        return image.get_bytes()


def altered(source, format):
    scan = read_scan(source, name="1907.17")
    provenance = Provenance("5" * 64, "b" * 64, (Variant("age-70", {"age": 70.0}),), (), source_xmp=scan.xmp)
    data = stamp(encode(np.zeros((4, 4, 3), np.uint8), format), provenance)
    with pyexiv2.ImageData(data) as image:
        return image.read_xmp(), data


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff"])
def test_the_keepers_words_are_kept_and_the_files_are_not(format):
    source = written(
        format,
        {
            "Xmp.dc.title": {'lang="x-default"': "Portrait of a lady & her dog"},
            "Xmp.dc.creator": ["Sofonisba Anguissola"],
            "Xmp.dc.description": {'lang="x-default"': "Oil on canvas <1560>"},
            "Xmp.dc.format": "image/png",
            "Xmp.photoshop.Credit": "Museum of Somewhere",
            "Xmp.xmpRights.WebStatement": "https://creativecommons.org/publicdomain/mark/1.0/",
            "Xmp.iptcExt.DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture",
            "Xmp.tiff.Orientation": "6",
            "Xmp.xmpMM.DocumentID": "uuid:1234",
        },
    )
    xmp, data = altered(source, format)
    assert xmp["Xmp.dc.title"] == {'lang="x-default"': "Portrait of a lady & her dog"}
    assert xmp["Xmp.dc.creator"] == ["Sofonisba Anguissola"]
    assert xmp["Xmp.photoshop.Credit"] == "Museum of Somewhere"
    assert xmp["Xmp.xmpRights.WebStatement"].endswith("/mark/1.0/")
    described = xmp["Xmp.dc.description"]['lang="x-default"']
    assert described.startswith("Altered by an algorithm") and described.endswith("Oil on canvas <1560>")
    assert xmp["Xmp.iptcExt.DigitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert not [name for name in xmp if name.startswith(("Xmp.tiff.", "Xmp.xmpMM.")) or name == "Xmp.dc.format"]
    assert read_stamp(data)["variants"] == {"age-70": {"age": 70.0}}


def rights(of_the_file="", of_the_work=""):
    """A packet that states rights, other statements in attributes, and more of the work."""
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description r:about="" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:p="http://ns.adobe.com/photoshop/1.0/" '
        'xmlns:mm="http://ns.adobe.com/xap/1.0/mm/">'
        f"{of_the_file}<!-- made by hand --><dc:rights><![CDATA[Museum & heirs]]></dc:rights>{of_the_work}"
        '</r:Description></r:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def test_rights_survive_a_long_history_comments_and_cdata():
    saved = "<r:li>saved</r:li>" * 100_000
    lists = "".join(f"<{tag}><r:Seq>{saved}</r:Seq></{tag}>" for tag in ("mm:History", "p:DocumentAncestors"))
    assert SourceXmp(rights(of_the_file=lists)).kept().count("\n") == 0
    for packet in (rights(), rights(of_the_file=lists)):
        assert ">Museum &amp; heirs</dc:rights>" in SourceXmp(packet).kept()


def test_a_smaller_picture_keeps_the_rights_too():
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = "Museum & heirs"
    source = written("png", {"Xmp.dc.rights": {'lang="x-default"': "Museum & heirs"}}, exif.tobytes())
    scan = read_scan(source, name="1907.17")
    data = SweepResult(scan, (), Sweep(), (), "5" * 64, "b" * 64).preview(64).file(SOURCE)
    with pyexiv2.ImageData(data) as image:
        assert image.read_xmp()["Xmp.dc.rights"] == {'lang="x-default"': "Museum & heirs"}
        assert image.read_exif()["Exif.Image.Copyright"] == "Museum & heirs"


def test_of_too_much_the_longest_is_left_out(caplog):
    long = f"<dc:title>{'T' * 20_000}</dc:title><dc:description>{'D' * 10_000}</dc:description>"
    with caplog.at_level(logging.WARNING):
        source = SourceXmp(rights(of_the_work=long))
    assert "Museum &amp; heirs" in source.kept() and "TTT" not in source.kept()
    assert source.description() == {"x-default": "D" * 10_000}
    assert "1 of 3 XMP statements left out" in caplog.text
    provenance = Provenance("5" * 64, "b" * 64, (), (), source_xmp=rights(of_the_work=long))
    assert b"Museum &amp; heirs" in stamp(encode(astronaut(), "jpeg"), provenance)


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><x>&a;&a;</x>'
HIDDEN = BOMB.decode().encode("utf-16")


@pytest.mark.parametrize("packet", [BOMB, HIDDEN, b"<x", b"\xff\xfe\x00", b" " * MAX_PACKET + b"<a/>", b"<a/>"])
def test_what_cannot_be_read_is_left_out_and_harms_nothing(packet, caplog):
    with caplog.at_level(logging.WARNING):
        source = SourceXmp(packet)
    assert source.kept() == "" and source.description() == {}
    assert bool(caplog.records) == (packet != b"<a/>")
    provenance = Provenance("5" * 64, "b" * 64, (), (), source_xmp=packet)
    assert read_stamp(stamp(encode(astronaut(), "jpeg"), provenance)) == json.loads(json.dumps(provenance.record()))


def test_plain_values_may_be_attributes_and_an_older_record_of_ours_is_not_believed():
    old = Provenance("5" * 64, "b" * 64, (), ()).packet()
    assert "record" not in SourceXmp(old).kept()
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    packet = (
        f'<r:RDF xmlns:r="{rdf}"><r:Description xmlns:p="http://ns.adobe.com/photoshop/1.0/" p:City="Delft" '
        'p:History="cropped"/></r:RDF>'
    )
    assert SourceXmp(packet.encode()).kept() == (
        '<photoshop:City xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/">Delft</photoshop:City>'
    )
