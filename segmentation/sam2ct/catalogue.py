"""The weights that others publish for these engines: file names, where they are, under which licence."""

from __future__ import annotations

from dataclasses import dataclass

_SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"
_MEDSAM2_URL = "https://huggingface.co/wanglab/MedSAM2"
_SAM2CT_URL = "https://zenodo.org/records/18394860"


@dataclass(frozen=True, slots=True)
class Published:
    """One weights file as its authors publish it.

    Parameters
    ----------
    file
        Its name there.
    engine
        Which engine it is for.
    licence
        As its authors state it.
    n_bytes, sha256
        Of the file; None where they are not known. None of these files could be downloaded where this was written: the
        figures are those of public copies.
    in_folder
        Whether to take it when only its folder is named. What was trained for something other than CT is not.

    """

    file: str
    engine: str
    url: str
    licence: str
    n_bytes: int | None = None
    sha256: str | None = None
    in_folder: bool = True


def _sam2(size: str, n_bytes: int, sha256: str) -> Published:
    file = f"sam2.1_hiera_{size}.pt"
    return Published(file, "sam2", _SAM2_URL + file, "Apache-2.0", n_bytes, sha256)


def _medsam2(file: str, *, in_folder: bool = True) -> Published:
    return Published(file, "medsam2", _MEDSAM2_URL, "CC-BY-SA-4.0 by its model card", in_folder=in_folder)


PUBLISHED = (
    _sam2("tiny", 156_008_466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    _sam2("small", 184_416_285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    _sam2("base_plus", 323_606_802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    _sam2("large", 898_083_611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
    _medsam2("MedSAM2_latest.pt"),
    _medsam2("MedSAM2_CTLesion.pt"),
    _medsam2("medsam2_FLARE25_RECIST_baseline.pt"),
    _medsam2("MedSAM2_2411.pt"),
    _medsam2("MedSAM2_MRI_LiverLesion.pt", in_folder=False),
    _medsam2("MedSAM2_US_Heart.pt", in_folder=False),
    Published("SAM2CT.pt", "sam2ct", _SAM2CT_URL, "see the record; not checked here"),
)
"""In the order of preference within a folder. SAM 2.1: tiny first, the size of MedSAM2 and SAM2CT, and the cheapest.
MedSAM2: first what its authors recommend. ``SAM2CT.pt`` is the name that SAM2CT's inference script expects."""

ENGINES_WITH_WEIGHTS = ("sam2", "medsam2", "sam2ct", "sam2-ft")
ENGINE_WITHOUT_WEIGHTS = "classical"


def published_as(file: str, sha256: str | None = None) -> Published | None:
    """Entry with this SHA-256, or else with this file name."""
    by_content = [entry for entry in PUBLISHED if sha256 is not None and entry.sha256 == sha256]
    by_name = [entry for entry in PUBLISHED if entry.file == file]
    return next(iter(by_content + by_name), None)
