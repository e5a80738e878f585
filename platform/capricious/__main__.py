"""The `capricious` command: jobs, the service, and the weights that they need. Never imports Ray by itself."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Sequence

from capricious import weights
from capricious.errors import CapriciousError

JOBS = {
    "demo": "render the portraits that ship with Capricious: a first look",
    "prepare": "find and describe the faces of a collection",
    "train": "train a model bundle",
    "train_parser": "train the face parser",
    "evaluate": "score model bundles",
    "render": "render a collection at other ages",
    "verify": "read all that render has written, and compare",
    "preflight": "look whether a cluster has what a job needs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit code: a job's own; 0 done, 1 failed (why is on stderr), 2 wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in JOBS:
        return _run(f"capricious.jobs.{words[0]}", *words)
    if words and words[0] == "serve":
        return _run("serve.run", *words)
    if not words:
        _parser().print_help()
        return 2
    options = _parser().parse_args(words)
    try:
        return options.run(options)
    except CapriciousError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="capricious", description="Re-render portraits at other ages.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    # Their words go to the job as they are; they are named here for --help.
    for name, about in JOBS.items():
        commands.add_parser(name, help=about)
    commands.add_parser("serve", help="run the portrait service: capricious serve bundle=…")

    about = "list, fetch and locate third-party weights"
    weights_parser = commands.add_parser("weights", help=about, description=about.capitalize() + ".")
    weights_parser.set_defaults(run=_list)
    actions = weights_parser.add_subparsers(metavar="ACTION")

    fetch = actions.add_parser("fetch", help="download weights into the cache")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="as listed by `capricious weights`")
    fetch.add_argument("--all", action="store_true", help="every registered weight")
    fetch.add_argument("--permissive-only", action="store_true", help="only weights that allow commercial use")
    fetch.set_defaults(run=_fetch)

    notices = actions.add_parser("notices", help="print licences and sources of all weights as Markdown")
    notices.set_defaults(run=_notices)

    path = actions.add_parser("path", help="print where a weight lies on this machine")
    path.add_argument("name", metavar="NAME")
    path.set_defaults(run=_path)
    return parser


def _run(module: str, name: str, *words: str) -> int:
    """Runs a module as a program of its own: the wheel carries jobs/NAME.py as capricious.jobs.NAME."""
    sys.argv = [name, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _list(options: argparse.Namespace) -> int:
    rows = [("NAME", "MB", "PRESENT", "COMMERCIAL", "WEIGHTS LICENCE", "SOURCE")]
    for name, weight in weights.REGISTRY.items():
        size = f"{weight.size / 1e6:.1f}" if weight.size else "?"
        present = "yes" if weights.lookup(name) else "no"
        commercial = "yes" if weight.commercial else "no"
        rows.append((name, size, present, commercial, weight.weights_license, weight.sources[0]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _notices(options: argparse.Namespace) -> int:
    print(weights.notices(), end="")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    if options.all == bool(options.names):
        raise CapriciousError("name the weights to fetch, or say --all")
    # With --all, weights that the licence rules out are left out; asked for by name, they are an error.
    names = options.names or [
        name for name, weight in weights.REGISTRY.items() if weight.commercial or not options.permissive_only
    ]
    failed = False
    for name in names:
        try:
            print(f"{name}\t{weights.fetch(name, permissive_only=options.permissive_only or None)}")
        except CapriciousError as error:
            print(error, file=sys.stderr)
            failed = True
    return int(failed)


def _path(options: argparse.Namespace) -> int:
    path = weights.lookup(options.name)
    if path is None:
        raise CapriciousError(
            f"weight {options.name} is not on this machine: get it with `capricious weights fetch {options.name}`"
        )
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
