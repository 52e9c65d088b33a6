"""In which language a report is, as a code; what a table says there may be any text."""

from __future__ import annotations

import re

UNKNOWN = "und"
"""ISO 639-2 for "undetermined"."""

_CODES = frozenset(  # ISO 639-1
    re.findall(
        r"\w+",
        "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv "
        "dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie "
        "ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv "
        "mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm "
        "rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts "
        "tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu ",
    )
)
_ALSO_WRITTEN = {  # ISO 639-2 (both of its forms) and names, of the languages that reports are most often found in
    word: code
    for code, words in {
        "ar": "ara arabic",
        "da": "dan danish dansk",
        "de": "deu ger german deutsch",
        "en": "eng english",
        "es": "spa spanish español espanol castellano",
        "fr": "fra fre french français francais",
        "it": "ita italian italiano",
        "ja": "jpn japanese",
        "ko": "kor korean",
        "nl": "nld dut dutch nederlands",
        "no": "nor norwegian norsk",
        "pl": "pol polish polski",
        "pt": "por portuguese português portugues",
        "sv": "swe swedish svenska",
        "tr": "tur turkish türkçe",
        "zh": "zho chi chinese",
    }.items()
    for word in words.split()
}


def language_code(written: str) -> str:
    """Return the language as a code of ISO 639-1, or ``und`` where what is written is no language.

    Examples
    --------
    >>> [language_code(written) for written in ("en-GB", "DE", "Dutch", "nld", "Dr. Who", "")]
    ['en', 'de', 'nl', 'nl', 'und', 'und']
    """
    first = re.split(r"[-_]", written.strip().lower(), maxsplit=1)[0]
    code = _ALSO_WRITTEN.get(first, first)
    return code if code in _CODES else UNKNOWN
