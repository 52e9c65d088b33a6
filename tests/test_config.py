"""Options: read from TOML, refused when wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from cohort_builder import BuildConfig, ConfigError, LinkConfig, Selection
from segmentation.tiers import EngineFit, KindFit, TierTable, shipped


def test_toml_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "cohort.toml"
    path.write_text('engine = "ellipsoid"\nvolumes = "all"\nmin_tier = "A"\nworkers = 3\n[link]\nlinked = 0.97\n')
    config = BuildConfig.from_toml(path)
    assert config == BuildConfig(
        engine="ellipsoid", volumes="all", min_tier="A", workers=3, link=LinkConfig(linked=0.97)
    )
    assert BuildConfig.from_mapping(config.as_dict()) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('volumes = "some"', "volumes must be"),
        ('min_tier = "D"', "min_tier must be"),
        ("roi_margin_mm = -1", "roi_margin_mm must be"),
        ("max_skip_fraction = 2", "max_skip_fraction must be"),
        ("workers = 0", "workers must be"),
        ("enigne = 'classical'", "unknown keys \\['enigne'\\]"),
        ("[link]\nlinkd = 0.9", "\\[link\\] has unknown keys"),
        ("[link]\nlinked = 3", "linked must be"),
        ("link = 3", "must be a table"),
        ("select = 3", "\\[select\\] must be a table"),
        ("[select]\nbodyparts = ['CHEST']", "\\[select\\] has unknown keys \\['bodyparts'\\]"),
        ("[select]\ncontrast = 'yes'", "select.contrast must be one of"),
        ('target_series = "best"', "target_series must be"),
        ('[pixel_origin]\nAcme = "middle"', "pixel_origin.Acme must be"),
        ("pixel_origin = 3", "must be a table"),
        ("volumes = ", "cannot be read"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cohort.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        BuildConfig.from_toml(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        BuildConfig.from_toml(tmp_path / "nowhere.toml")


def test_what_only_concerns_the_run_does_not_rebuild_shards() -> None:
    assert BuildConfig(workers=1, pictures=0).what_is_published() == BuildConfig(workers=4).what_is_published()
    assert BuildConfig().what_is_published() != BuildConfig(min_tier="C").what_is_published()


def test_own_tiers_stand_beside_the_shipped_ones_and_rebuild_by_content(tmp_path: Path) -> None:
    """Their place is not published."""
    files = [tmp_path / "a.json", tmp_path / "same.json", tmp_path / "b.json"]
    for file, accept in zip(files, (0.5, 0.5, 0.6), strict=True):
        fit = EngineFit("mine", "1", {"line": KindFit(1.0, {}, accept, {})}, "by hand")
        file.write_text(TierTable((fit,)).to_json())
    one, same, other = (BuildConfig(tiers=str(file)) for file in files)
    assert {fit.engine for fit in one.tier_table().fits} == {fit.engine for fit in shipped().fits} | {"mine"}
    assert one.what_a_shard_holds() == same.what_a_shard_holds()
    assert one.what_a_shard_holds() != other.what_a_shard_holds() != BuildConfig().what_a_shard_holds()
    assert str(tmp_path) not in str(one.as_dict(places=False))
    for wrong in (tmp_path / "none.json", Path(__file__)):
        with pytest.raises(ConfigError, match="fitted tiers"):
            BuildConfig(tiers=str(wrong))


def test_a_selection_is_published_and_decides_shard_by_shard() -> None:
    """What it leaves of a patient stands in the hash of that patient's inputs (tests/test_selection.py)."""
    chosen = BuildConfig(select=Selection(sex="F"))
    assert chosen.what_is_published()["select"] == {"sex": "F"}
    assert chosen.what_a_shard_holds() == BuildConfig().what_a_shard_holds()
    assert BuildConfig(target_series="thinnest").what_a_shard_holds() != BuildConfig().what_a_shard_holds()
    assert BuildConfig(pixel_origin={"Acme": "center"}).what_a_shard_holds() != BuildConfig().what_a_shard_holds()
