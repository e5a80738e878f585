"""`capricious serve`: what `serve run serve.app:portrait` does, but at its end it finishes what it has in hand.

Ray's `serve run` closes every connection at Ctrl-C, though the replicas behind them go on to the answer.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence

from pydantic import ValidationError
from ray import serve

from capricious.cluster.session import session
from capricious.errors import CapriciousError
from serve.app import portrait
from serve.arguments import PortraitArguments


def main(words: Sequence[str]) -> int:
    """Serves until SIGINT or SIGTERM, then turns new requests away and waits for the others, `timeout_s` at most.

    Args:
        words: name=value of PortraitArguments.

    Returns:
        0, or 2 where a word is not right.
    """
    try:
        arguments = PortraitArguments.model_validate(dict(_named(word) for word in words))
    except (ValidationError, CapriciousError) as error:
        print(error, file=sys.stderr)
        return 2
    stop = threading.Event()
    with session():
        ingress = serve.run(portrait(arguments))
        for number in (signal.SIGINT, signal.SIGTERM):  # only now: Ray puts its own in their place
            signal.signal(number, lambda *_: stop.set())
        stop.wait()
        print("finishing what is in hand", file=sys.stderr)
        # Not serve.delete(): it lets the model go while a sweep in hand still needs it.
        ingress.broadcast("close").results(timeout_s=arguments.timeout_s + 5)
        serve.shutdown()
    return 0


def _named(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise CapriciousError(f"arguments are name=value, found: {word}")
    return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
