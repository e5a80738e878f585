"""Content Credentials with a certificate made here, checked by c2pa's own reader."""

import io
import json

import c2pa
import pytest
from credentials_tools import make_signer
from skimage.data import astronaut

from capricious.errors import CapriciousError, ConfigError
from capricious.faces.image import encode
from capricious.render.content_credentials import MIME_TYPES, ContentCredentials, CredentialsConfig
from capricious.render.provenance import DIGITAL_SOURCE_TYPE, Provenance, read_stamp, stamp
from capricious.render.sheet import gif
from capricious.render.sweep import Variant
from capricious.render.video import video

PROVENANCE = Provenance("5" * 64, "b" * 64, (Variant("age-70", {"age": 70.0}),), (), "s3://museum/1907.17.jpg")


@pytest.fixture(scope="module")
def museum():
    return make_signer()


def made(ending):
    if ending == "gif":
        return gif([astronaut()[::8, ::8]] * 2)
    if ending == "mp4":
        return video([astronaut()[::8, ::8]] * 2, 0.3, "mp4", "")
    return encode(astronaut(), {"jpg": "jpeg", "tif": "tiff"}.get(ending, ending))


@pytest.mark.parametrize("ending", MIME_TYPES)
def test_a_reader_finds_who_signed_what(museum, ending):
    root, chain, key = museum
    data = made(ending)
    if ending != "mp4":
        data = stamp(data, PROVENANCE)
    signed = ContentCredentials(chain, key, "es256").sign(data, f"age-70.{ending}", PROVENANCE.record())
    assert len(signed) - len(data) < 10_000
    trusting = c2pa.Context(c2pa.Settings.from_dict({"trust": {"trust_anchors": root.decode()}}))
    reader = c2pa.Reader(MIME_TYPES[ending], io.BytesIO(signed), context=trusting)
    assert reader.get_validation_state() == "Trusted"
    found = json.loads(reader.json())
    manifest = found["manifests"][found["active_manifest"]]
    assert manifest["signature_info"]["issuer"] == "A Museum"
    assertions = {each["label"]: each["data"] for each in manifest["assertions"]}
    assert assertions["c2pa.actions.v2"]["actions"][0]["digitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert assertions["org.capricious.record"] == json.loads(json.dumps(PROVENANCE.record()))
    if ending != "mp4":
        assert read_stamp(signed) == json.loads(json.dumps(PROVENANCE.record()))  # the XMP is still there
    # An authority that nobody knows, and a changed file.
    assert c2pa.Reader(MIME_TYPES[ending], io.BytesIO(signed)).get_validation_state() == "Valid"
    if ending == "jpg":
        changed = bytearray(signed)
        changed[-50] ^= 1
        assert c2pa.Reader("image/jpeg", io.BytesIO(bytes(changed))).get_validation_state() == "Invalid"


def test_what_cannot_hold_credentials_stays_as_it_is(museum):
    _, chain, key = museum
    assert ContentCredentials(chain, key, "es256").sign(b"{}", "manifest.json", {}) == b"{}"


def test_a_certificate_that_does_not_work_is_refused(museum):
    _, _, key = museum
    with pytest.raises(CapriciousError, match=r"credentials\.certificate"):
        ContentCredentials(b"nonsense", key, "es256")
    with pytest.raises(ConfigError, match="both"):
        CredentialsConfig(certificate="museum.pem")
