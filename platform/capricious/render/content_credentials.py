"""Content Credentials (C2PA): a signed statement of what a file is, that platforms show and anybody can check.

An optional part: pip install 'capricious[c2pa]'. Signed is with the user's own certificate, which an authority has
issued; whether a reader calls it trusted depends on whether it knows that authority. Signatures hold random numbers: a
file that is rendered again has the same pixels, but not the same bytes.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import capricious
from capricious.errors import CapriciousError, ConfigError
from capricious.faces.image import encode
from capricious.render.provenance import DIGITAL_SOURCE_TYPE

MIME_TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "tif": "image/tiff",
    "gif": "image/gif",
    "mp4": "video/mp4",
}
"""Files that can hold credentials, by their ending."""


@dataclass(frozen=True)
class CredentialsConfig:
    """With whose certificate files are signed; without one they are not."""

    certificate: str = ""
    """PEM file: the signer's certificate, then those of its authorities. Local or s3://."""
    private_key: str = ""
    """PEM file of the certificate's key, PKCS #8, not encrypted. Local on each worker, or s3://."""
    algorithm: Literal["es256", "es384", "es512", "ps256", "ed25519"] = "es256"
    """What the key is for."""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.private_key):
            raise ConfigError("credentials need both credentials.certificate and credentials.private_key")


class ContentCredentials:
    """Signs files.

    Args:
        certificate, private_key: contents of the PEM files.
        algorithm: as of CredentialsConfig.

    Raises:
        CapriciousError: c2pa-python is not installed, or the certificate or key is none that one can sign with.
    """

    def __init__(self, certificate: bytes, private_key: bytes, algorithm: str):
        try:
            import c2pa
        except ImportError as error:
            message = "credentials need c2pa-python: pip install 'capricious[c2pa]', or leave credentials out"
            raise CapriciousError(message) from error
        self._c2pa = c2pa
        # Thumbnails would add some hundred KB to each file.
        self._context = c2pa.Context(c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}}))
        try:
            info = c2pa.C2paSignerInfo(algorithm, certificate, private_key, None)
            self._signer = c2pa.Signer.from_info(info)
        except c2pa.C2paError as error:
            raise CapriciousError(f"credentials.certificate and .private_key do not work: {error}") from error
        # c2pa looks at the certificate only when it signs: better now than after the first portrait is rendered.
        self.sign(encode(np.zeros((1, 1, 3), np.uint8)), "probe.png", {})

    def sign(self, data: bytes, name: str, record: dict[str, Any]) -> bytes:
        """Returns a file with credentials; one of a kind that cannot hold any, as it is.

        Args:
            data: the file.
            name: its name; the ending says what it is.
            record: what is stated besides that an algorithm made it, as Provenance.record().

        Raises:
            CapriciousError: the certificate is not good for signing, e.g. out of date.
        """
        kind = MIME_TYPES.get(name.rpartition(".")[2])
        if kind is None:
            return data
        made = {"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE_TYPE}
        manifest = {
            "claim_generator_info": [{"name": "capricious", "version": capricious.__version__}],
            "title": name,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [made]}},
                {"label": "org.capricious.record", "data": record},
            ],
        }
        out = io.BytesIO()
        try:
            builder = self._c2pa.Builder(json.dumps(manifest), context=self._context)
            builder.sign(self._signer, kind, io.BytesIO(data), out)
        except self._c2pa.C2paError as error:
            raise CapriciousError(f"{name} cannot be signed with credentials.certificate: {error}") from error
        return out.getvalue()
