"""What pyproject.toml ships is what the repository holds."""

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
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


def test_the_newest_release_of_the_changelog_is_this_version(project: dict[str, Any]) -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    releases = [heading for heading in headings if heading != "Unreleased"]
    assert headings[1:] == releases or headings == releases, "what is not released stands first"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+, \d{4}-\d\d-\d\d: .+", release) for release in releases)
    numbers = [tuple(map(int, release.partition(",")[0].split("."))) for release in releases]
    assert numbers == sorted(set(numbers), reverse=True)
    assert releases[0].startswith(project["project"]["version"] + ",")


def test_a_tag_of_this_commit_names_this_version(project: dict[str, Any]) -> None:
    git = ["git", "-C", str(ROOT), "tag", "--points-at", "HEAD"]
    tags = subprocess.run(git, capture_output=True, text=True, check=False).stdout.split()
    versions = [tag for tag in tags if re.match(r"v\d", tag)]
    assert versions in ([], [f"v{project['project']['version']}"])


def locked(name: str) -> dict[str, set[str]]:
    """Versions of each package of a lock, one for all Pythons or several; each has hashes."""
    text = (ROOT / "deploy/requirements" / name).read_text()
    assert "://" not in text
    entries = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if entry]
    found = defaultdict[str, set[str]](set)
    for entry in entries:
        head = re.match(r"([a-z0-9-]+)==([\w.]+)", entry)
        assert head and "--hash=sha256:" in entry, entry
        found[head[1]].add(head[2])
    return found


def test_the_locks_hold_what_the_project_asks_for(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    runtime = [*project["project"]["dependencies"], *extras["server"], *project["build-system"]["requires"]]
    for name, asked in (("server.txt", runtime), ("dev.txt", runtime + extras["dev"])):
        versions = locked(name)
        for dependency in asked:
            package, _, version = dependency.partition(";")[0].partition("==")
            assert version in versions[re.sub(r"\[.*\]", "", package)], f"{dependency}: run `make lock`"
        assert all(len(versions[name]) == (3 if name == "numpy" else 1) for name in list(versions))
    assert locked("server.txt").items() <= locked("dev.txt").items()


@pytest.mark.parametrize(
    ("module", "foreign"),
    [("exitscope_probes.commandline", ("exitscope", "click", "fastapi")), ("exitscope.cli", ("fastapi", "pyarrow"))],
)
def test_the_privileged_process_loads_nothing_of_the_server_and_no_command_what_it_does_not_need(
    module: str, foreign: tuple[str, ...]
) -> None:
    code = f"import sys, {module}; print(sorted(sys.modules.keys() & {set(foreign)!r}))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
