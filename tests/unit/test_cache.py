"""Compiled probes are kept, and only believed where nobody else could have written them."""

from pathlib import Path

import pytest

from exitscope_probes import cache

PROGRAMS = {"on_something": bytes(range(16))}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_written_is_read(directory: Path) -> None:
    assert cache.read("key") is None
    cache.write("key", PROGRAMS)
    assert cache.read("key") == PROGRAMS
    assert cache.read("other") is None
    assert [path.name for path in directory.iterdir()] == ["key.json"]
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", [".", "key.json"])
def test_what_others_can_write_is_not_believed(directory: Path, place: str) -> None:
    cache.write("key", PROGRAMS)
    (directory / place).chmod(0o777)
    assert cache.read("key") is None


def test_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    cache.write("key", PROGRAMS)
    (directory / "key.json").rename(tmp_path / "elsewhere")
    (directory / "key.json").symlink_to(tmp_path / "elsewhere")
    assert cache.read("key") is None


@pytest.mark.parametrize("text", ["", "[]", '{"on_something": 3}', '{"on_something": "zz"}', "\x00"])
def test_garbage_is_nothing(directory: Path, text: str) -> None:
    cache.write("key", PROGRAMS)
    (directory / "key.json").write_text(text)
    assert cache.read("key") is None


def test_only_the_newest_are_kept(directory: Path) -> None:
    for number in range(15):
        cache.write(f"key{number}", PROGRAMS)
    assert len(list(directory.iterdir())) == 12
    assert cache.read("key14") == PROGRAMS


def test_a_place_that_cannot_be_written_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", "/proc/nowhere")
    cache.write("key", PROGRAMS)
    assert cache.read("key") is None
