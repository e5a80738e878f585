"""Is all there that the plan asks for, once, and is it what was written? Every file is read and hashed anew."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from capricious.cluster.ledger import Row, done_shards, planned, read_rows
from capricious.cluster.plan import Plan, read_plan
from capricious.cluster.reading import READ_AHEAD
from capricious.cluster.session import worker_count
from capricious.cluster.shards import ShardWorker, run_shards
from capricious.data import storage
from capricious.data.collections import Source

SHOWN = 100
"""Problems that are described; the others are counted."""


@dataclass(frozen=True)
class VerifyConfig:
    """What to verify."""

    out: str
    """Folder or s3:// address that jobs/render.py has written."""
    workers: int = 0
    """Ray actors, one CPU each; 0 for one per CPU that is there now."""


@dataclass(frozen=True)
class Verdict:
    """What was found: rows of the ledger by status, and what is wrong, in plain words."""

    rows: dict[str, int]
    problems: int
    shown: tuple[str, ...]


class VerifyShard(ShardWorker):
    """Verifies one shard in a Ray Data actor. Writes nothing."""

    KIND = "verify"

    def __init__(self, plan: Plan):
        super().__init__(plan.out)
        self.plan = plan

    def run_shard(self, shard: int, sources: list[Source]) -> dict[str, Any]:
        rows = read_rows(self.out, shard)
        problems = self._rows_problems(shard, rows) + self._files_problems(rows)
        statuses = Counter(row["status"] for row in rows)
        return {
            "done": statuses["ok"],
            "failed": len(problems),
            "rows_failed": statuses["failed"],
            "rows_skipped": statuses["skipped"],
            "problems": problems[:SHOWN],
        }

    def _rows_problems(self, shard: int, rows: list[Row]) -> list[str]:
        """Compares the ledger's rows with those that the plan asks for."""
        wanted = {
            name: f"{source.uri}, {product}" for source, row in planned(self.plan, shard) for name, product in row
        }
        found = Counter(row["render_id"] for row in rows)
        return [
            *(f"{what}: no row in the ledger" for name, what in wanted.items() if name not in found),
            *(f"{wanted.get(name, name)}: {count} rows in the ledger" for name, count in found.items() if count > 1),
            *(f"{name}: a row that the plan does not ask for" for name in found.keys() - wanted.keys()),
        ]

    def _files_problems(self, rows: list[Row]) -> list[str]:
        """Hashes every file of the ledger, and looks for files that it does not know."""
        done = [row for row in rows if row["status"] == "ok"]
        with ThreadPoolExecutor(READ_AHEAD) as threads:
            problems = [problem for problem in threads.map(self._file_problem, done) if problem]
            folders = sorted({row["file"].rpartition("/")[0] for row in done})
            listings = threads.map(lambda folder: _files(storage.join(self.out, folder)), folders)
            known = {storage.locate(storage.join(self.out, row["file"]))[1] for row in done}
            for listing in listings:
                problems += [f"{file}: not in the ledger" for file in listing if storage.locate(file)[1] not in known]
        return problems

    def _file_problem(self, row: Row) -> str | None:
        try:
            content = storage.read(storage.join(self.out, row["file"]))
        except FileNotFoundError:
            return f"{row['file']}: missing"
        found = hashlib.sha256(content).hexdigest()
        return None if found == row["sha256"] else f"{row['file']}: sha256 must be {row['sha256']}, found: {found}"


def _files(folder: str) -> list[str]:
    return storage.list_files(folder) if storage.exists(folder) else []


def verify(config: VerifyConfig) -> Verdict:
    """Verifies an output folder on the connected Ray cluster.

    Raises:
        CapriciousError: there is no plan.
    """
    plan = read_plan(config.out)
    done = done_shards(plan)
    rows: Counter[str] = Counter()
    shown = [
        f"shard {shard} is not done; run the same jobs/render.py again to finish it"
        for shard in sorted(set(range(plan.shards)) - set(done))
    ]
    problems = len(shown)

    def add(counts: dict[str, Any]) -> None:
        nonlocal problems
        rows.update(ok=counts["done"], failed=counts["rows_failed"], skipped=counts["rows_skipped"])
        problems += counts["failed"]
        shown.extend(counts["problems"])

    run_shards(VerifyShard, {"plan": plan}, plan, done, worker_count(config.workers, "verify"), "verify", then=add)
    return Verdict(dict(rows), problems, tuple(shown[:SHOWN]))
