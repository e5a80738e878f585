"""`capricious serve`: what `serve run serve.app:portrait` does, but at its end it finishes what it has in hand.

Ray's `serve run` closes every connection at Ctrl-C, though the replicas behind them go on to the answer.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence

from pydantic import Field, ValidationError
from ray import serve
from ray.exceptions import RayActorError

from capricious.cluster.session import session
from capricious.errors import CapriciousError
from serve.app import portrait
from serve.arguments import PortraitArguments


class Arguments(PortraitArguments):
    """Of `capricious serve`; `serve start` and `serve/config.yaml` say the address for Ray's own commands.

    Attributes:
        host: address that the service listens at; 0.0.0.0 for all of the machine's.
        port: there.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)

    def of_the_service(self) -> PortraitArguments:
        """All but the address."""
        return PortraitArguments(**self.model_dump(exclude={"host", "port"}))


def main(words: Sequence[str]) -> int:
    """Serves until SIGINT or SIGTERM, then turns new requests away and waits for the others, `timeout_s` at most.

    Args:
        words: name=value of Arguments.

    Returns:
        0, 1 where it cannot serve, 2 where a word is not right.
    """
    try:
        arguments = Arguments.model_validate(dict(_named(word) for word in words))
    except (ValidationError, CapriciousError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        _serve(arguments)
    except CapriciousError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _serve(arguments: Arguments) -> None:
    stop = threading.Event()
    with session():
        # Not before the session, as Ray puts its own handlers in their place; nor after serve.run(), which returns a
        # moment after the first requests are let in.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        serve.start(http_options={"host": arguments.host, "port": arguments.port})
        ingress = serve.run(portrait(arguments.of_the_service()))
        stop.wait()
        print("finishing what is in hand", file=sys.stderr)
        try:
            # Not serve.delete(): it lets the model go while a sweep in hand still needs it.
            ingress.broadcast("close").results(timeout_s=arguments.timeout_s + 5)
        except (TimeoutError, RayActorError) as error:
            print(f"not all of it could be finished: {error}", file=sys.stderr)
        serve.shutdown()


def _named(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise CapriciousError(f"arguments are name=value, found: {word}")
    return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
