"""What all jobs do alike: read the configuration, connect to Ray, turn errors into one sentence and an exit code."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from capricious.cluster import batch_metrics
from capricious.cluster.node_report import Needs
from capricious.cluster.plan import DONE_WITH_FAILURES
from capricious.cluster.preflight import preflight, require
from capricious.cluster.session import session
from capricious.config import parse, resolved
from capricious.errors import REMEDY, CapriciousError, StoreFault

Config = TypeVar("Config")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""

FAILURES = {
    DONE_WITH_FAILURES: "some failed, no more than --failure-share {:.0%} allows",
    1: "more failed than --failure-share {:.0%} allows, or nothing was left to do",
}
"""What an exit code says of a batch."""


def run_job(
    config_type: type[Config],
    main: Callable[[Config], int],
    description: str | None,
    foresee: Callable[[Config], str] = lambda config: "",
    needs: Callable[[Config], Needs] | None = None,
) -> int:
    """Runs the `main` of a job on Ray and returns the process's exit code.

    `--dry-run` prints the resolved configuration and what `foresee` says, e.g. what the job will cost, and stops
    before Ray is touched. A cluster that lacks what the job `needs` is refused before any work; warnings of the
    preflight go to stderr. Errors that are meant for people end as one line on stderr and exit code 1; all others
    keep their traceback.
    """

    def read_and_run() -> int:
        parsed = parse(config_type, description=description or "")
        if parsed.dry_run:
            print(resolved(parsed.config), end="", flush=True)
            print(foresee(parsed.config))
            return 0
        started, code = time.monotonic(), 1  # that of an error with a traceback
        try:
            code = _exit_code(lambda: work(parsed.config))
        finally:
            batch_metrics.ended(Path(sys.argv[0]).stem, code, time.monotonic() - started)
        accepted = code == DONE_WITH_FAILURES and getattr(parsed.config, "accept_failures", False)
        return 0 if accepted else code

    def work(config: Config) -> int:
        with session():
            if needs is not None:
                _look_first(needs(config))
            code = main(config)
            # `ray job submit` calls all that is not 0 a failed job.
            if code in FAILURES and (share := getattr(config, "failure_share", None)) is not None:
                print(f"exit code {code}: {FAILURES[code].format(share)}", file=sys.stderr)
            return code

    return _exit_code(read_and_run)


def _exit_code(do: Callable[[], int]) -> int:
    """Returns what `do` does, or, having told it on stderr, what its error means to a shell."""
    try:
        return do()
    except CapriciousError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, StoreFault):
            raise
        print(f"error: {error}; {REMEDY}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED


def _look_first(needs: Needs) -> None:
    findings = preflight(needs)
    for finding in findings:
        if finding.level == "warning":
            print(f"preflight: {finding}", file=sys.stderr)
    require(findings)
