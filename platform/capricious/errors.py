"""The errors that people are meant to read: what happened, to which item, and what to do about it."""

REMEDY = "put that right and run the same command again to go on"
"""What to do after a failure that was not a picture's fault but the machine's, such as a full disk."""


class CapriciousError(Exception):
    """Base of all errors that end in one plain sentence for the user instead of a traceback."""


class ConfigError(CapriciousError):
    """A configuration that cannot work; the message names the field, what was found and what is allowed."""


class Rejection(CapriciousError):
    """One input that cannot be used. Batch jobs turn it into a row of the rejects table and go on.

    Attributes:
        stage: where it was rejected: "read", "decode", "detect", "landmarks", "parse", "encode", or
            "internal" (a bug).
        reason: a stable, kebab-case code to group by, e.g. "too-many-pixels".
        detail: one plain sentence with the found and the allowed value, and the remedy where there is one.
    """

    def __init__(self, stage: str, reason: str, detail: str):
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage = stage
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["Rejection"], tuple[str, str, str]]:
        # Exception's own pickling would call __init__ with the joined message only; Ray pickles errors.
        return type(self), (self.stage, self.reason, self.detail)


class StoreFault(OSError):
    """A store that does not answer or lets nobody in: the fault of no single file, so going on would lose them all."""
