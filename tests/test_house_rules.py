"""The rules of the house (docs/architecture.md): who may import whom, and where."""

import ast
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "platform" / "capricious"

# Arrows point down only: a room may import rooms of a lower level, or itself.
LEVEL = {
    "errors": 0,
    "config": 1,
    "weights": 1,
    "client": 1,
    "faces": 2,
    "data": 3,
    "model": 3,
    "annotate": 4,
    "training": 4,
    "render": 4,
    "evaluate": 4,
    "cluster": 5,
    "__main__": 5,
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    below = path.relative_to(PACKAGE).parts
    return below[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where an arrow points"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported_modules(path) if name.startswith("capricious.")} & LEVEL.keys()


def imports_package(path: Path, package: str) -> bool:
    return any(name.split(".")[0] == package for name in imported_modules(path))


def test_platform_is_a_source_root_and_no_package():
    assert not (ROOT / "platform" / "__init__.py").exists(), "it would shadow the standard library's platform"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_down_only(path):
    room = room_of(path)
    if room == "__init__":
        assert not imported_rooms(path)
        return
    upward = {other for other in imported_rooms(path) - {room} if LEVEL[other] >= LEVEL[room]}
    assert not upward, f"{path.relative_to(ROOT)} imports {upward}"


def test_there_is_no_circle_between_modules():
    names = {f"capricious.{'.'.join(p.relative_to(PACKAGE).with_suffix('').parts)}": p for p in modules()}
    graph = {name: imported_modules(path) & names.keys() for name, path in names.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_only_the_cluster_room_imports_ray():
    assert {room_of(p) for p in modules() if imports_package(p, "ray")} == {"cluster"}


def test_only_the_training_strategies_import_deepspeed():
    assert [p.relative_to(PACKAGE).as_posix() for p in modules() if imports_package(p, "deepspeed")] == [
        "training/strategy.py"
    ]


def test_faces_know_no_torch():
    assert not [p for p in (PACKAGE / "faces").glob("*.py") if imports_package(p, "torch")]


def test_jobs_are_thin():
    for job in (ROOT / "jobs").glob("*.py"):
        assert len(job.read_text().splitlines()) <= 100, f"{job.name} holds logic that belongs into cluster/"


def test_the_wheel_carries_every_package():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    elsewhere = ["capricious.jobs", "capricious.samples", "serve"]
    packages = {init.parent.relative_to(ROOT / "platform") for init in PACKAGE.rglob("__init__.py")}
    assert sorted(told) == sorted([".".join(package.parts) for package in packages] + elsewhere)


def test_torch_is_bound_below_the_cuda_build():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(d.startswith("torch>=") and "<2.14" in d for d in dependencies)
