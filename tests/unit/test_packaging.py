"""What pyproject.toml ships is what the repository holds."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

import exitscope_probes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed(project: dict[str, Any]) -> None:
    found = {
        ".".join(source.parent.relative_to(ROOT / root).parts)
        for root in ("server", "probes")
        for source in (ROOT / root).glob("**/*.py")
    }
    assert found == set(project["tool"]["setuptools"]["packages"]) - {"exitscope.frontend"}


@pytest.mark.parametrize(
    ("package", "folder"),
    [("exitscope.frontend", "frontend"), ("exitscope_probes", "probes/exitscope_probes/bpf"),
     ("exitscope_probes.guest", "probes/exitscope_probes/guest"), ("exitscope", "server/exitscope/data")],
)  # fmt: skip
def test_every_data_file_ships(project: dict[str, Any], package: str, folder: str) -> None:
    base = ROOT / project["tool"]["setuptools"]["package-dir"].get(package, folder)
    shipped = {
        path for pattern in project["tool"]["setuptools"]["package-data"][package] for path in base.glob(pattern)
    }
    here = {path for path in (ROOT / folder).glob("**/*") if path.is_file()}
    assert {path for path in here - shipped if path.suffix not in {".py", ".pyc", ".png"}} == set()


def test_versions_agree(project: dict[str, Any]) -> None:
    assert exitscope_probes.__version__ == project["project"]["version"]


def test_every_dependency_is_pinned(project: dict[str, Any]) -> None:
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    assert [d for group in groups for d in group if "==" not in d] == []
