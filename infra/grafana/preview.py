"""Draws the dashboards beside this file from a Prometheus, where no Grafana is at hand: one picture for each.

    pip install matplotlib
    python infra/grafana/preview.py --prometheus http://127.0.0.1:9090 --minutes 30 --out docs/dashboards

The queries, titles, units and legends are the dashboards' own, and so a picture also shows that they find something.
A panel that finds nothing says so.
"""

import json
import re
import textwrap
import time
import urllib.parse
import urllib.request
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

UNITS = {"ops": (1, "/s"), "reqps": (1, "/s"), "s": (1, " s"), "percentunit": (100, " %"), "short": (1, "")}
"""Unit of a dashboard → what values are multiplied by, and what stands behind them."""

Line = tuple[str, tuple[float, ...], tuple[float, ...]]

INK, FAINT = "#342f2a", "#ded6c9"


def series(prometheus: str, expression: str, start: float, end: float) -> list[dict[str, Any]]:
    """Asks for a range of values: as Prometheus answers, a list of {"metric": labels, "values": [[time, text], …]}."""
    query = {"query": expression, "start": start, "end": end, "step": max(1, round((end - start) / 200))}
    address = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=30) as response:
        return list(json.load(response)["data"]["result"])


def lines(panel: dict[str, Any], prometheus: str, start: float, end: float) -> list[Line]:
    """Returns the lines of a panel: name, minutes since `start`, values."""
    found = []
    for target in panel["targets"]:
        for one in series(prometheus, target["expr"], start, end):
            labels = {**one["metric"], "run": Path(one["metric"].get("run", "")).name}
            name = re.sub(r"{{(\w+)}}", lambda match, labels=labels: labels.get(match[1], ""), target["legendFormat"])
            at, values = zip(*[((when - start) / 60, float(value)) for when, value in one["values"]], strict=True)
            found.append((name, at, values))
    return found


def draw_panel(axes: Axes, panel: dict[str, Any], found: list[Line]) -> None:
    """Draws one panel."""
    defaults = panel["fieldConfig"]["defaults"]
    factor, unit = UNITS[defaults["unit"]]
    for name, at, values in found:
        axes.plot(at, [factor * value for value in values], label=name, linewidth=1.4)
    axes.set_title(panel["title"], loc="left", fontsize=10, color=INK, pad=18)
    axes.text(0, 1.03, textwrap.shorten(panel["description"], 110), transform=axes.transAxes, fontsize=6.5, color=INK)
    if "min" in defaults:
        axes.set_ylim(bottom=defaults["min"])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}{unit}"))
    axes.tick_params(labelsize=7, colors=INK)
    axes.grid(color=FAINT, linewidth=0.6)
    for side in axes.spines.values():
        side.set_color(FAINT)
    if found:
        axes.legend(fontsize=6, frameon=False, ncols=3, loc="upper left")
    else:
        axes.text(0.5, 0.5, "nothing was found", transform=axes.transAxes, ha="center", color=INK)


def draw(dashboard: dict[str, Any], prometheus: str, start: float, end: float, file: Path) -> None:
    """Draws a dashboard, two panels side by side, over the minutes in which it has anything to show."""
    panels = dashboard["panels"]
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(11, 2.5 * rows + 0.5), squeeze=False, layout="constrained")
    figure.suptitle(f"{dashboard['title']}, minutes of one run", x=0.01, ha="left", fontsize=12, color=INK)
    found = [lines(panel, prometheus, start, end) for panel in panels]
    minutes = [minute for each in found for _, at, _ in each for minute in (at[0], at[-1])] or [0.0, (end - start) / 60]
    for place, panel, each in zip(axes.flat, panels, found, strict=False):
        draw_panel(place, panel, each)
        place.set_xlim(min(minutes), max(minutes))
    for place in axes.flat[len(panels) :]:
        place.axis("off")
    figure.savefig(file, dpi=110, pil_kwargs={"quality": 80})
    plt.close(figure)


def main() -> None:
    arguments = ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prometheus", default="http://127.0.0.1:9090")
    arguments.add_argument("--minutes", type=float, default=30, help="before now")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.time()
    for path in sorted(Path(__file__).parent.glob("*.json")):
        file = options.out / f"{path.stem}.webp"
        draw(json.loads(path.read_text()), options.prometheus, end - 60 * options.minutes, end, file)
        print(file)


if __name__ == "__main__":
    main()
