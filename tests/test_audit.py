"""Planted identifiers are found wherever they are packed; clean output is clean."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from cohort_builder.audit.search import Leak, find_leaks
from cohort_builder.errors import ConfigError
from cohort_builder.privacy.pseudonyms import Pseudonyms

UID = "1.2.826.0.1.3680043.8.498.4077"
NEEDLES = [
    "OKONKWO^ADAEZE",
    "00734591",
    "ACC-0098765",
    "20210304",
    UID,
    "Lakeside General Hospital",
    "LEE^ANN",
    "MÜLLER^JÜRGEN",
]


def _write(folder: Path, name: str, content: bytes | str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _nifti(text: str = "", field: str = "descrip", *, extension: bool = False) -> bytes:
    image = nib.Nifti1Image(np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20)).astype(np.int16), np.eye(4))
    if extension:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", text.encode()))
    elif text:
        image.header[field] = text.encode()
    return image.to_bytes()


def _png(text: str = "", *, compressed: bool = False, international: bool = False) -> bytes:
    stream, info = io.BytesIO(), PngImagePlugin.PngInfo()
    if international:
        info.add_itxt("Comment", text, zip=compressed)
    elif text:
        info.add_text("Comment", text, zip=compressed)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def _parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _column(values: list[object], kind: pa.DataType | None = None) -> bytes:
    return _parquet(pa.table({"n": pa.array(range(len(values))), "x": pa.array(values, kind)}))


def _zip(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def _named_gzip(name: str) -> bytes:
    stream = io.BytesIO()
    with gzip.GzipFile(name, "wb", fileobj=stream, mtime=0) as file:
        file.write(b"nothing here")
    return stream.getvalue()


NAME = "Adaeze Okonkwo"
LONG = [f"row {i}" for i in range(40)]
PLANTED = {
    "text": ("log.txt", f"read the report of {NAME}"),
    "text without extension": ("_SUCCESS", NAME),
    "json": ("run.json", json.dumps({"deep": [{"who": "OKONKWO, ADAEZE"}]})),
    "json escapes": ("run.json", json.dumps({"who": "Müller"}, ensure_ascii=True)),
    "html entity": ("card.md", "M&uuml;ller"),
    "utf-16": ("x.csv", ("patient " + NAME).encode("utf-16")),
    "string column": ("a.parquet", _column([*LONG, f"seen by {NAME}"])),
    "nested column": (
        "a.parquet",
        _column([[{"a": [{"b": "nothing"}]}], [{"a": [{"b": "x"}, {"b": "OKONKWO^ADAEZE"}]}]]),
    ),
    "map column": ("a.parquet", _column([[("key", "v")], [("OKONKWO", "v")]], pa.map_(pa.string(), pa.string()))),
    "unused dictionary value": (
        "a.parquet",
        _parquet(pa.table({"x": pa.DictionaryArray.from_arrays([0, 0], ["fine", "Okonkwo"])})),
    ),
    "date column": ("a.parquet", _column([date(2021, 3, 4)])),
    "number column": ("a.parquet", _column([5, 734591])),
    "parquet metadata": ("a.parquet", _parquet(pa.table({"x": [1]}).replace_schema_metadata({"made_for": NAME}))),
    "parquet metadata key": ("a.parquet", _parquet(pa.table({"x": [1]}).replace_schema_metadata({NAME: "x"}))),
    "parquet field metadata": (
        "a.parquet",
        _parquet(pa.table([[1]], schema=pa.schema([pa.field("x", pa.int64(), metadata={"of": NAME})]))),
    ),
    "parquet column name": ("a.parquet", _parquet(pa.table({"okonkwo": [1]}))),
    "nifti descrip": ("a.nii", _nifti(NAME)),
    "nifti aux_file": ("a.nii", _nifti("okonkwo.dcm", "aux_file")),
    "nifti intent_name": ("a.nii.gz", gzip.compress(_nifti("OKONKWO", "intent_name"))),
    "nifti extension": ("a.nii.gz", gzip.compress(_nifti(NAME, extension=True))),
    "behind the voxels": ("a.nii", _nifti() + NAME.encode()),
    "nifti column": ("a.parquet", _column([_nifti(), _nifti(NAME)])),
    "nifti.gz in a struct": ("a.parquet", _column([{"bytes": gzip.compress(_nifti(NAME)), "path": None}])),
    "path in a struct": ("a.parquet", _column([{"bytes": _nifti(), "path": "okonkwo.nii"}])),
    "png text": ("a.png", _png(NAME)),
    "png compressed text": ("a.png", _png(NAME, compressed=True)),
    "png international text": ("a.png", _png("Jürgen Müller", international=True)),
    "png column": ("a.parquet", _column([_png(), _png(NAME, compressed=True, international=True)])),
    "behind the png": ("a.png", _png() + b"  okonkwo"),
    "gzip name": ("a.gz", _named_gzip("okonkwo.nii")),
    "zip member name": ("a.npz", _zip("okonkwo.npy", b"")),
    "zip member": ("a.zip", _zip("a.txt", NAME.encode())),
    "opaque bytes": ("a.bin", b"\x00\x01\xff" * 50 + b"patient OKONKWO^ADAEZE\x00" + b"\xfe\x00" * 9),
    "id": ("a.txt", "patient no. 00734591"),
    "id without zeros": ("a.txt", "patient 734591"),
    "id with separators": ("a.txt", "patient 734-591"),
    "id in a file of its own": ("images/0734591.png", _png()),
    "accession": ("a.txt", "acc 0098765"),
    "iso date": ("a.txt", "on 2021-03-04"),
    "day first": ("a.txt", "on 04/03/2021"),
    "month first": ("a.txt", "on 3/4/2021"),
    "dotted": ("a.txt", "am 4.3.21"),
    "month name": ("a.txt", "on March 4, 2021"),
    "day month name": ("a.txt", "the 4th of March 2021"),
    "date and time": ("a.txt", "20210304104500"),
    "uid": ("a.txt", f"series {UID}"),
    "uid of nobody we know": ("a.txt", "series 1.3.6.1.4.1.14519.5.2.1.6279"),
    "uid in opaque bytes": ("a.dcm", b"\0" * 128 + b"DICM\x02\x00" + UID.encode() + b"\0"),
    "institution": ("a.txt", "LAKESIDE GENERAL HOSPITAL"),
    "home path": ("a.txt", "read /home/someone/export"),
    "temporary path": ("a.json", json.dumps({"path": "/tmp/pytest-0/x"})),
    "windows path": ("a.json", json.dumps({"path": "C:\\Users\\x"})),
    "e-mail": ("a.txt", "ask someone@example.org"),
    "file name": ("pictures/Okonkwo_1.png", _png()),
    "folder name": ("OKONKWO^ADAEZE/a.txt", "nothing"),
    "uid as file name": (f"{UID}.nii", _nifti()),
    "short name": ("a.txt", "Dr Lee agrees"),
}


@pytest.mark.parametrize(("name", "content"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_identifier_is_found(tmp_path: Path, name: str, content: bytes | str) -> None:
    _write(tmp_path, "README.md", "a clean card")
    _write(tmp_path, name, content)
    leaks = find_leaks(tmp_path, NEEDLES)
    assert leaks
    assert {leak.where.split("/")[0].split(" ")[0].split(":")[0] for leak in leaks} & {Path(name).parts[0], "<withheld"}
    for leak in leaks:
        said = f"{leak.where} {leak.kind} {leak.needle} {leak!r}".lower()
        assert not any(secret in said for secret in ("okonkwo", "adaeze", "734591", "0098765", UID, "2021", "muller"))


def test_private_folder_is_not_published(tmp_path: Path) -> None:
    _write(tmp_path, "private/links.jsonl", NAME)
    assert find_leaks(tmp_path, NEEDLES) == []
    assert find_leaks(tmp_path, NEEDLES, exclude=()) != []


def test_private_is_only_skipped_at_the_top(tmp_path: Path) -> None:
    _write(tmp_path, "dataset/private/a.txt", NAME)
    assert find_leaks(tmp_path, NEEDLES) != []


def test_clean_output_has_no_leak(tmp_path: Path) -> None:
    names = Pseudonyms(bytes(32))
    rng = np.random.default_rng(1)
    table = pa.table(
        {
            "id": [names.pseudonym("lesion", str(i)) for i in range(3000)],
            "text": ["[NAME], 12 mm nodule (4/87), a leeward ann-ular bulge, seen [DATE]"] * 3000,
            "points": [rng.normal(size=3).tolist() for _ in range(3000)],
        }
    )
    pictures = pa.table({"image": [_nifti(), gzip.compress(_nifti())], "preview": [_png(), _png()]})
    _write(tmp_path, "dataset/data/a-00000-of-00001.parquet", _parquet(table))
    _write(tmp_path, "dataset/data/b.parquet", _parquet(pictures))
    _write(tmp_path, "dataset/checksums.sha256", "\n".join(rng.bytes(32).hex() for _ in range(2000)))
    _write(tmp_path, "dataset/x.json", json.dumps(rng.normal(size=5000).tolist()))
    _write(
        tmp_path, "dataset/README.md", "SOP class 1.2.840.10008.5.1.4.1.1.2, https://x.org/home/a, numpy 2.4.6, data/x"
    )
    _write(tmp_path, "noise.bin", rng.bytes(2_000_000))
    assert find_leaks(tmp_path, NEEDLES) == []


def test_broken_file_is_not_called_clean(tmp_path: Path) -> None:
    _write(tmp_path, "a.parquet", _column(["x"] * 10)[:-30])
    _write(tmp_path, "b.nii.gz", gzip.compress(_nifti())[:-30])
    _write(tmp_path, "c.png", _png()[:-30])
    assert {(leak.where, leak.kind) for leak in find_leaks(tmp_path, NEEDLES)} == {
        ("a.parquet", "unsearchable"),
        ("b.nii.gz", "unsearchable"),
        ("c.png", "unsearchable"),
    }


def test_link_target_is_searched(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/home/someone/okonkwo")
    assert {leak.kind for leak in find_leaks(tmp_path, NEEDLES)} == {"name", "path"}


def test_ordinary_word_is_a_name_only_with_the_rest_of_it(tmp_path: Path) -> None:
    _write(tmp_path, "a.txt", "A young patient. Small nodule, long segment.")
    assert find_leaks(tmp_path, ["YOUNG^SMALL", "LONG^PATIENT"]) == []
    _write(tmp_path, "b.txt", "Patient: Small Young")
    _write(tmp_path, "c.txt", "As Mr. Young says")
    assert [leak.where for leak in find_leaks(tmp_path, ["YOUNG^SMALL"])] == ["b.txt", "c.txt"]


def test_where_says_the_rows(tmp_path: Path) -> None:
    _write(tmp_path, "a.parquet", _column([*LONG, NAME]))
    assert {leak.where for leak in find_leaks(tmp_path, NEEDLES)} == {"a.parquet:x, rows 40 to 40"}


def test_one_identifier_has_one_short_id(tmp_path: Path) -> None:
    _write(tmp_path, "a.txt", "00734591")
    _write(tmp_path, "b.txt", "734591")
    first, second = find_leaks(tmp_path, NEEDLES)
    assert (first.where, second.where) == ("a.txt", "b.txt")
    assert first.needle == second.needle != ""


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        find_leaks(tmp_path / "absent", NEEDLES)


def test_leaks_are_sorted_values() -> None:
    assert sorted([Leak("b", "id"), Leak("a", "uid")]) == [Leak("a", "uid"), Leak("b", "id")]


@given(
    day=st.dates(date(1900, 1, 1), date(2099, 12, 31)),
    form=st.sampled_from(
        ["%Y%m%d", "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d %B %Y", "%b %d, %Y", "%d-%b-%Y", "%d.%m.%y"]
    ),
)
def test_every_date_form_is_found(tmp_path_factory: pytest.TempPathFactory, day: date, form: str) -> None:
    folder = tmp_path_factory.mktemp("audit")
    _write(folder, "a.txt", f"seen {day.strftime(form)}, stable")
    assert [leak.kind for leak in find_leaks(folder, [f"{day:%Y%m%d}"])] in (["date"], ["date", "id"])


def test_png_without_metadata_stays_searchable(tmp_path: Path) -> None:
    length, kind = struct.pack(">I", 0), b"teSt"
    chunk = length + kind + struct.pack(">I", zlib.crc32(kind))
    data = _png()
    _write(tmp_path, "a.png", data[:-12] + chunk + data[-12:])
    assert find_leaks(tmp_path, NEEDLES) == []
