"""Reading the pictures of a shard ahead of the work, and whose fault it is where one cannot be read.

A picture that is refused costs its row. A store that is away would cost the rows of all pictures after it, at full
speed and for good: then the shard has to stop, and the same command does it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from capricious.cluster.plan import select
from capricious.data import storage
from capricious.data.collections import Source, web
from capricious.errors import Rejection, StoreFault

READ_AHEAD = 8
"""Pictures that are read while one is worked on, so that a slow store does not leave a CPU waiting."""

HELD_BYTES = 2**30
"""Bytes that may wait, if the pictures to come are as large as the last ones: nine scans could fill a node's memory."""

WITNESSES = 8
"""Pictures of the shard that are asked whether their store is there, as long as none of it was ever read."""


class Reader:
    """Reads sources. Remembers from shard to shard what could be read last in each store."""

    def __init__(self) -> None:
        self._readable: dict[str, Source] = {}
        self._sizes: deque[int] = deque([1], maxlen=READ_AHEAD)  # of the last pictures, bytes

    def ahead(self, sources: Iterable[Source], count: int = READ_AHEAD) -> Iterator[tuple[Source, Future[bytes]]]:
        """Yields the sources in order, while threads read the `count` that follow, or fewer large ones."""
        waiting: deque[tuple[Source, Future[bytes]]] = deque()
        with ThreadPoolExecutor(READ_AHEAD) as threads:
            for source in sources:
                waiting.append((source, threads.submit(source.read)))
                while len(waiting) > min(count, HELD_BYTES // max(self._sizes)):
                    yield waiting.popleft()
            yield from waiting

    def content(self, source: Source, data: Future[bytes], shard: Sequence[Source]) -> bytes:
        """Returns what was read of a source.

        Args:
            source: whose bytes they are.
            data: from `ahead`.
            shard: the sources among which it is.

        Raises:
            Rejection: this picture cannot be read.
            StoreFault: nor can others.
        """
        try:
            content = data.result()
        except FileNotFoundError as error:
            raise Rejection("read", "not-found", "there is no such file") from error
        except StoreFault:
            raise
        except OSError as error:
            content = self._once_more(source, error, shard)
        self._readable[_store_of(source)] = source
        self._sizes.append(len(content) or 1)
        return content

    def _once_more(self, source: Source, error: OSError, shard: Sequence[Source]) -> bytes:
        """Reads a source again if its store is there: it may not have been when this was read ahead."""
        if not _may_be_the_stores(source, error):
            raise Rejection("read", "unreadable", str(error)) from error
        if self._is_away(source, shard):
            raise StoreFault(f"{source.uri} cannot be read, nor can others there: {error}") from error
        try:
            return source.read()
        except StoreFault:
            raise
        except OSError as still:
            raise Rejection("read", "unreadable", str(still)) from still

    def _is_away(self, source: Source, shard: Sequence[Source]) -> bool:
        """Says whether all else is unreadable, too, where a source lies: one picture may be denied or damaged."""
        store = _store_of(source)
        there = [other for other in shard if other != source and not other.refused and _store_of(other) == store]
        witnesses = [self._readable[store]] if store in self._readable else select(there, WITNESSES)
        return bool(witnesses) and not any(map(_is_readable, witnesses))


def _may_be_the_stores(source: Source, error: OSError) -> bool:
    """Says whether reading failed, and not in others' hands.

    What was read and found damaged or cut is told by errors without a number. Hosts on the web come and go.
    """
    return not web.is_url(source.uri) and (isinstance(error, PermissionError) or error.errno is not None)


def _store_of(source: Source) -> str:
    return storage.store_of(source.container or source.uri)


def _is_readable(source: Source) -> bool:
    try:
        source.read()
    except OSError:
        return False
    except Rejection:  # it was looked at
        return True
    return True
