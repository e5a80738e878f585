"""Which pictures may be altered and published: what the words of their keepers mean."""

from __future__ import annotations

import re

_OPEN = re.compile(
    r"\bcc[\s-]?0\b|\bcc[\s-]zero\b|creativecommons\.org/publicdomain/(zero|mark)|\bpublic[\s-]domain\b|\bpdm?\b", re.I
)
_CLOSED = re.compile(
    r"\b(not|no longer|isn't|nor|never)\b[^.;]*\bpublic[\s-]domain|\bnon[\s-]?public|all rights reserved|©|\(c\)"
    r"|\bcopyright(ed)?\b(?! (free|expired|has expired))|\bin copyright\b",
    re.I,
)


def is_open(statement: str) -> bool:
    """Says whether a statement of rights is CC0 or the public domain, in words or by the address of its deed.

    In doubt it is not: "no copyright known" and "public domain, photo © museum" are both refused.
    """
    return bool(_OPEN.search(statement)) and not _CLOSED.search(statement)
