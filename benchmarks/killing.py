"""Kills a job of Ray at random moments, again and again: what benchmarks/kill_prepare.py and kill_render.py share."""

import os
import random
import signal
import subprocess
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable
from itertools import cycle

import psutil

ACTOR = "ray::MapWorker"


def add_arguments(arguments: ArgumentParser, shortest: float, longest: float) -> None:
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--kills", type=int, default=10)
    arguments.add_argument("--shortest", type=float, default=shortest, help="seconds between two kills")
    arguments.add_argument("--longest", type=float, default=longest)
    arguments.add_argument("--seed", type=int, default=0)


def victims(driver: subprocess.Popen, kind: str) -> list[psutil.Process]:
    """Returns the processes of a kind that can be killed now."""
    if kind == "driver":
        return [psutil.Process(driver.pid)]
    found = []
    # Below the driver is its own Ray, if it has one; below this process one that drivers share.
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        # A node goes with either of its agents: that is a power cut, for which tests/test_power_cuts.py is.
        if title.startswith("ray::") and "Agent" not in title and title.startswith(ACTOR) == (kind == "actor"):
            found.append(process)
    return found


def disturb(
    options: Namespace,
    start: Callable[[], subprocess.Popen],
    done: Callable[[], bool],
    look: Callable[[], None] = lambda: None,
) -> Counter:
    """Runs a job until it is done, killing on the way; returns how many of each kind were killed.

    Args:
        start: starts the job, or starts it again.
        done: says whether its output is complete.
        look: is called right after each kill.
    """
    draw, kinds, killed = random.Random(options.seed), cycle(("actor", "worker", "driver")), Counter()
    kind, driver = next(kinds), start()
    while True:
        wait = draw.uniform(options.shortest, options.longest) if killed.total() < options.kills else None
        try:
            code = driver.wait(wait)
        except subprocess.TimeoutExpired:
            if not (chosen := victims(driver, kind)):
                continue  # it is still starting
            victim = draw.choice(chosen)
            print(f"kill {killed.total() + 1}: {kind} {' '.join(victim.cmdline())[:60]}", flush=True)
            os.kill(victim.pid, signal.SIGKILL)
            killed[kind] += 1
            if kind == "driver":
                driver.wait()
            look()
            if kind == "driver":
                driver = start()
            kind = next(kinds)
            continue
        print(f"the job ended with exit code {code}, {'complete' if done() else 'incomplete: again'}", flush=True)
        if done():
            return killed
        driver = start()
