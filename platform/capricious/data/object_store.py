"""An object store that speaks S3, with the errors that a disk would give: OSError, and nothing of botocore's own."""

from __future__ import annotations

from typing import Any

import s3fs
from aiohttp import ClientError as BrokenBody
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, ParamValidationError
from fsspec.asyn import sync_wrapper

from capricious.errors import StoreFault

ATTEMPTS = 12
"""How often a store is asked that does not answer or is busy: ever more patiently, for a minute in all."""

NO_ACCESS = ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch")
"""Codes by which a store refuses whoever asks, whatever is asked for. AccessDenied may concern one object."""


class ObjectStore(s3fs.S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """S3 by s3fs, which lets errors of its client through where the store itself is not to be had.

    Raises, in all of its methods, besides what s3fs does:
        StoreFault: the store does not answer, has no credentials to go by, or does not accept them.
    """

    retries = ATTEMPTS

    def __init__(self, **options: Any):
        super().__init__(**options)
        s3fs.core.set_custom_error_handler(_may_pass)

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            return await super()._call_s3(method, *arguments, **options)
        except ParamValidationError:  # an address that cannot be
            raise
        except BotoCoreError as error:
            raise StoreFault(f"the object store cannot be reached: {error}") from error
        except OSError as error:
            if _code(error) in NO_ACCESS:
                raise StoreFault(f"the object store accepts no credentials of ours: {error}") from error
            raise

    async def _cat_file(self, path: str, *arguments: Any, **options: Any) -> bytes:
        try:
            return await super()._cat_file(path, *arguments, **options)
        except BrokenBody as error:
            raise OSError(f"{path}: the object breaks off each time: {error}") from error

    async def _exists(self, path: str) -> bool:
        """As s3fs, but for buckets, of which it says that they are not there when it could not ask."""
        try:
            await self._info(path)
        except FileNotFoundError:
            return False
        return True

    exists = sync_wrapper(_exists)


def _may_pass(error: Exception) -> bool:
    """Says whether a store that answered so, or not at all, is worth asking again: it is busy, or being restarted."""
    if isinstance(error, ClientError):
        return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) in (429, 500, 502, 503, 504)
    return isinstance(error, ConnectionError | HTTPClientError)


def _code(error: OSError) -> str:
    """Returns the store's own word for an error that s3fs has translated, or an empty text."""
    cause = error.__cause__
    return cause.response.get("Error", {}).get("Code", "") if isinstance(cause, ClientError) else ""
