"""The card says what is in the dataset, exactly, and what it must not be taken for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from records import finding, report, volume

from exports import CardInfo, write_dataset
from exports.card import ConfigFacts, Contents, SplitFacts, render_card


def card_of(info: CardInfo, **changes: Any) -> tuple[dict[str, Any], str]:
    """Front matter and text of a card over two configs."""
    configs = (
        ConfigFacts(
            "findings",
            (SplitFacts("train", 12_345, 999_000_000), SplitFacts("test", 1_000, 80_000_000)),
            {"train": ("data/findings/train-*.parquet",), "test": ("data/findings/test-*.parquet",)},
            600_000_000,
            "0123abcd",
        ),
        ConfigFacts(
            "reports",
            (SplitFacts("train", 20_000, 5_000_000),),
            {"train": ("data/reports/train-*.parquet",)},
            9,
            "4567",
        ),
    )
    facts: dict[str, Any] = {
        "configs": configs,
        "patients": 77,
        "engines": {"classical@1": 13_345},
        "tiers": {"A": 9_000, "B": 4_000, "C": 345},
        "assertions": {"PRESENT": 13_000, "UNCERTAIN": 345},
        "outcomes": {"LINKED": 13_345, "NEGATED": 8_000},
        "skipped": {"AMBIGUOUS": 21},
    }
    text = render_card(info, Contents(**(facts | changes)))
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_matter_is_exact() -> None:
    front, _ = card_of(CardInfo(title="Chest and abdomen"))
    assert front["pretty_name"] == "Chest and abdomen"
    assert front["size_categories"] == ["10K<n<100K"]
    first, second = front["configs"]
    assert (first["config_name"], first["default"], "default" in second) == ("findings", True, False)
    assert [entry["split"] for entry in first["data_files"]] == ["train", "test"]
    assert first["description"].endswith("content 0123abcd")
    info = front["dataset_info"][0]
    assert info["splits"][0] == {"name": "train", "num_bytes": 999_000_000, "num_examples": 12_345}
    assert (info["dataset_size"], info["download_size"]) == (1_079_000_000, 600_000_000)


def test_the_text_counts_and_warns() -> None:
    _, body = card_of(CardInfo(counts={"reports read": 20_000}))
    for words in (
        "| findings | 1,000 | 12,345 | 600.0 |",
        "| A | 9,000 |",
        "| UNCERTAIN | 345 |",
        "| NEGATED | 8,000 |",
        "| AMBIGUOUS | 21 |",
        "| reports read | 20,000 |",
        "`classical@1`",
        "must be reviewed by a person before sharing",
        "masks are machine-made",
        "Quality tiers",
        "Not a medical device",
    ):
        assert words in body


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (CardInfo(), "nobody is allowed to use or share it"),
        (CardInfo(license="cc-by-4.0"), "cc-by-4.0."),
        (CardInfo(license="other", license_name="Hospital licence 2"), "Hospital licence 2."),
    ],
)
def test_without_a_licence_nobody_may_use_it(info: CardInfo, words: str) -> None:
    front, body = card_of(info)
    assert body.split("## Licence\n\n")[1].strip().endswith(words) or words in body.split("## Licence")[1]
    assert front["license"] == info.license
    assert front.get("license_name") == info.license_name


def test_settings_of_nested_mappings_stand_under_dotted_names() -> None:
    _, body = card_of(CardInfo(software="cohort-builder 9", config={"engine": "classical", "link": {"threshold": 0.9}}))
    assert "Built with cohort-builder 9." in body
    assert "| engine | classical |" in body
    assert "| link.threshold | 0.9 |" in body


def test_no_value_can_break_out_of_its_place() -> None:
    front, body = card_of(CardInfo(title="a: b\n---\n# not a heading", config={"pipe": "a|b\nc"}), skipped={"x|y": 1})
    assert front["pretty_name"] == "a: b --- # not a heading"
    assert "| pipe | a\\|b c |" in body
    assert "| x\\|y | 1 |" in body


def test_the_card_of_a_written_dataset_counts_its_tables(tmp_path: Path) -> None:
    source = volume()
    write_dataset(
        tmp_path / "dataset",
        findings=[finding(source, 0), finding(source, 1, said=False)],
        volumes=[source],
        reports=[report(source)],
    )
    text = (tmp_path / "dataset/README.md").read_text()
    assert "**1** phrase / mask pairs among **2** segmented\nlesions of **1** patients" in text
    for row in ("| A | 2 |", "| PRESENT | 1 |", "| LINKED | 1 |", "| NEGATED | 1 |", "`ellipsoid@1`"):
        assert row in text
    documented = {
        name
        for line in text.split("## Columns")[1].split("## Counts")[0].splitlines()
        for name in line.split("`")[1::2]
    }
    import pyarrow.parquet as pq

    for folder in ("findings", "volumes", "reports"):
        assert set(pq.read_schema(next((tmp_path / "dataset/data" / folder).glob("*.parquet"))).names) <= documented
