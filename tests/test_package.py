"""The packages work outside of the checkout: what they hold, and the wheel's command in an empty folder."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from capricious import __version__
from capricious.__main__ import JOBS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The folder with a source distribution, and the wheel that was made of nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "build", "--quiet", "--out-dir", str(folder), str(ROOT)], check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(packages):
    (path,) = packages.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def command(unpacked: Path, *words: str) -> subprocess.CompletedProcess:
    """Runs the unpacked wheel in an empty folder."""
    empty = unpacked.parent / "empty"
    empty.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(unpacked)}
    return subprocess.run(
        [sys.executable, "-m", "capricious", *words], env=env, cwd=empty, capture_output=True, text=True
    )


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout of git: nothing to compare with")
def test_the_source_distribution_holds_what_git_knows(packages):
    (path,) = packages.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    known = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not {name for name in known if not name.startswith(".")} - names


def test_the_wheel_holds_what_the_package_needs(wheel):
    assert f"-{__version__}-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    needed = {f"capricious/jobs/{job}.py" for job in JOBS}
    needed |= {"serve/app.py", "serve/web/index.html", "capricious/render/gallery.html", "capricious/evaluate/page.css"}
    needed |= {"capricious/annotate/parser/parser.safetensors", "capricious/annotate/age_calibration.json"}
    needed |= {f"capricious/model/default/{file}" for file in ("bundle.json", "generator.safetensors", "MODEL_CARD.md")}
    assert not needed - names
    sources = {path.relative_to(ROOT / "platform").as_posix() for path in (ROOT / "platform").rglob("*.py")}
    assert not sources - names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "jobs/"))]


def test_the_command_runs_jobs_with_their_own_words(unpacked):
    told = command(unpacked, "verify", "--help")
    assert told.returncode == 0 and "--workers" in told.stdout
    wrong = command(unpacked, "verify", "--nonsense")
    assert wrong.returncode == 2


def test_the_command_lists_all_that_it_can_do(unpacked):
    told = command(unpacked, "--help").stdout
    assert not [name for name in (*JOBS, "serve", "weights") if name not in told]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_every_job_explains_itself(unpacked, job):
    told = command(unpacked, job, "--help")
    assert told.returncode == 0 and "--help" in told.stdout, told.stderr
