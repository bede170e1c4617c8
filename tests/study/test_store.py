"""The folder of a study: whole, checked, and replaced only while nobody has taken part."""

from pathlib import Path

import pytest

from mrtutor.study.store import create_study, open_study
from tests.study.pools import tiny_pool, tiny_study
from tests.study.test_session import N, start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_study(tmp_path / "study", N)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-100])])
@pytest.mark.parametrize("name", ["pool.npz", "study.json"])
def test_a_damaged_study_is_drawn_again_until_somebody_took_part(folder: Path, name: str, damage) -> None:
    study = open_study(folder)[0]
    damage(folder / name)
    assert create_study(folder, tiny_pool(N), questions=N) == study == open_study(folder)[0]
    start(folder)
    damage(folder / "pool.npz")
    with pytest.raises(ValueError, match=r"holds 1 session.* missing or damaged: restore both .* or move the folder"):
        create_study(folder, tiny_pool(N), questions=N)


def test_settings_and_pictures_are_checked(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 6 questions"):
        create_study(tmp_path / "b", tiny_pool(6), questions=7)
    for bad in ({"questions": 0}, {"minutes": 0}, {"minutes": float("nan")}):
        with pytest.raises(ValueError, match="Expected"):
            create_study(tmp_path / "b", tiny_pool(6), **{"questions": 6} | bad)
    with pytest.raises(FileNotFoundError, match="make reader-study"):
        open_study(tmp_path / "nothing")
    pictures = (folder / "pool.npz").read_bytes()
    (folder / "pool.npz").write_bytes(pictures[:-100])
    with pytest.raises(ValueError, match="Cannot read the pictures"):
        open_study(folder)
    tiny_pool(N, seed=9).save(folder / "pool.npz")
    with pytest.raises(ValueError, match="is not the file that"):
        open_study(folder)
    (folder / "study.json").write_text("{")
    with pytest.raises(ValueError, match="Cannot read"):
        open_study(folder)
