"""Which share of each room's lines do the tests pass, and which files the least? Reads what `make coverage` measured.

python tests/coverage_by_room.py .coverage/report.json
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

LEAST = 12
"""Files to name."""


def room_of(file: str) -> str:
    parts = Path(file).parts
    return "/".join(parts[: 3 if parts[0] == "platform" and len(parts) > 3 else len(parts) - 1])


def main(report: str) -> None:
    files = {name: entry["summary"] for name, entry in json.loads(Path(report).read_text())["files"].items()}
    rooms: dict[str, list[dict[str, int]]] = defaultdict(list)
    for name, summary in files.items():
        rooms[room_of(name)].append(summary)
    print(f"{'room':<34} {'lines':>6} {'passed':>7}")
    for room, summaries in [*sorted(rooms.items()), ("all", list(files.values()))]:
        lines = sum(each["num_statements"] for each in summaries)
        print(f"{room:<34} {lines:6d} {sum(each['covered_lines'] for each in summaries) / max(lines, 1):7.1%}")
    print("\nleast")
    for name, summary in sorted(files.items(), key=lambda item: item[1]["percent_covered"])[:LEAST]:
        print(f"{summary['percent_covered'] / 100:7.1%}  {name}")


if __name__ == "__main__":
    main(sys.argv[1])
