"""Names of people in report text: those that the patient's record knows, and those behind a title or a label.

The known names are looked for word by word, not as renderings: a run of name parts, initials and particles is a name in
whatever order and with whatever separators it is written ("SMITH^JOHN^A", "J. Smith", "Smith-Jones, Mary").

A part that is also an ordinary word ("Young", "Brown", "Head") is a name when it is capitalised, stands beside another
part or follows a title; in lower case and alone it is the word. Every other part goes in any case of letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import permutations

from cohort_builder.privacy.scrub_patterns import Hit, Tag


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A longer list is safer for the text and no risk for the name: a capitalised one is always removed.
_ORDINARY_WORDS = _words(  # English and radiology words that are somebody's name too
    """
    able acute adder air alar angel apex april arch archer arm art ash august axis back bacon bailey baker ball band
    bank banks bar barn base bass bay bean bear beck bell best bird bishop black blood bloom blue boat body bold bond
    bone bones booth border bow bowel bowl box boyle brain branch brand bravo bread breast brick bridge bright bring
    broad brook brooks brown buck bud bull bulla bump burn burns bush butter button calf camp canal candle cannon
    carbon card care carpenter carry case cash cast castle cavity cell center central chain chamber chance change
    chapel chase chest chin christian church clay clear clean clip close cloud coal coil cole colon cone cook cooper
    cord core cork corn corner cost couch counter court cove cover cox craft crane crest crook cross crow crown cuff
    cup curl curry cyst dark dash dawn day days deal dean deep depth dial dome dose down drain drake draw drew drum
    duct dull dust duty dwell early east edge elder else end english even ever fair faith fall fan farmer fast fat
    favor felt fern field fields fill fine finger fire first fish fisher fissure flame flank flat flint flood flow
    flower flowers focal fold foot force ford fore forest form forward foster fowl fox frame frank free freeman french
    frost full fuse gap garden gas gate gates gall general gentle giles gill given glass glen glove gold golden good
    gore grand grant grave graves gray great green grey grip groin groove ground grow guide gum gut guy hail hair hale
    half hall ham hand hands harbor hard hardy harm hart hawk hay hazel head heal heart heath heel height held helm
    her herring high hilar hill hills hilum hip hobby hold hole holes holly home hood hook hope horn horne house hull
    hunt hunter ice image imaging inch index ivory ivy jack jade jasmine jay jet jewel job join joint jolly joy judge
    june just keen keep key kidney kidneys kind king knee knight knot lake lamb lamp land lane large lark last late law
    lawn lay lead leaf lean ledge left leg lens lesion less light lily limb lime line lines link lip list little liver
    lobe lock long loop lord love low luck lumbar lump lung lungs lush mace main major many marble march mark marked
    marker marks marrow marsh mason mass masse master may mead measure medial median mercy mere merry mess mild mile
    miles mill miller mills minor mint miss mist mole moon moor more moss mount mouth mural muse nail narrow nash neck
    nerve new niece night nix noble node nodule none noon norm normal north nose nurse oak odd oil old olive open orange
    organ oval over overall pace pack page pain paine palm pane park parks part parish patch path patience pea peace
    peak pear pearl peel pelvis penny perch pike pile pill pin pink pipe pit pitch place plain plane plate plum point
    pole pond pool poor pope port porter post potter pound power prayer precious press price pride priest prime prince
    print prior probe proud pulse pump quick quiet race rail rain rains ramp rand range rank rash rate raw ray read
    real reason red reed reef rest rib ribs rice rich ridge right ring rise river rivers road robin rock rod rode role
    roll rood roof room root rose rough round rowe ruby rudd rule rush rust sage sail salt same sand sands savage scan
    scar scott seal sear seat see self series sewell shade shadow shaft shallow sharp sheath sheet shelf shell shepherd
    short shunt side sign silver simple single sinus site size skin skull slice slide slight slope small smart smooth
    snow soft sole solid solo son south space spark spear speed spin spine spleen spot spring stable staff stage stain
    star start steel stein stem stent step stern stick still stomach stone stones storm straight strain strand stream
    street strength strong study such sugar summer summers sun sure swallow sweet swift tall tail tan tank taper target
    taylor temple tender than thick thin thorn thorne thyroid tide till time tip tissue toe tongue torn torso tower
    towers town trace tract train tray tree trunk truth tube tuck tuft turner twist uncle under upper vale valve vane
    vein very vessel view vine violet void wade wait wake walk walker wall waller walls ward ware warm water waters wave
    way wear webb weeks weight well wells west wheel while white whole wide wild will wind window wing winter wise wood
    woods word work worth wrist yard york young zone
    """
)


_PARTICLES = _words(
    "von van der den de del della di da do dos das du la le el al bin ibn ben ter ten zu zur zum af av y e st san"
)
_NO_NAME = _words(
    """
    mr mrs ms miss mx dr drs doctor prof professor herr frau md phd do rn np pa frcr mbbs jr sr ii iii iv esq hon rev
    anonymous anonymized anonymised anonymize anon deidentified patient unknown none null nil test phantom name names
    not available other male female sex redacted removed withheld the and for with mri radiology radiologist
    technologist technician operator admin administrator system user staff physician nurse resident department scanner
    console workstation spiral helical siemens philips toshiba canon hitachi thorax chest abdomen neuro body emergency
    cardiology neurology oncology urology gynecology pediatrics paediatrics orthopedics orthopaedics surgery demo
    """
)
"""What stands in fields of names, stations and departments and names nobody."""
_SHORT_WORDS = _words("in at is it on no an as he we do so to up or of by if my be go me us im se mr dr ms am vs ct")

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_GAP = re.compile(r"[\s,^=_-]{1,4}|[./]")
_GAP_AFTER_INITIAL = re.compile(r"\.?[\s,^=_-]{0,4}|[./]")
_TITLE_BEFORE = re.compile(r"\b(?:Drs?|Prof|Professor|Doctor|Mr|Mrs|Ms|Mx|Miss|Herr|Frau)\.?\s+$", re.IGNORECASE)
_TITLE_REACH = 12
_UNKNOWN_GIVEN = re.compile(r"(?:(?<=[a-z] )|(?<=[a-z], ))([A-Z][a-z]{2,20})[ \t]+\Z")
_GIVEN_REACH = 26
_OTHER_HALF = re.compile(r"-[A-Z][^\W\d_]{2,}(?!\w)")
_SPACED = re.compile(r"(?<!\w)(?:[A-Za-z][ .]{1,2}){3,}[A-Za-z](?!\w)")
_UNSPACED = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
"""Korean (decomposed), Japanese and Chinese, which write names and what surrounds them as one word."""
_UNKNOWN_MIDDLE = re.compile(r"[ \t]+[A-Z][\w'.-]{0,18}[ \t]+")

_MIN_LOGIN = 5
"""Letters of a family name that an initial is glued to; shorter ones would make ordinary words."""
_LONG = 7
"""Letters of a part that is found inside of other words too; shorter ones are inside of ordinary words."""
_UMLAUTS = (("ae", "a"), ("oe", "o"), ("ue", "u"), ("aa", "a"))


def is_ordinary(word: str) -> bool:
    """Whether a word in lower case is one of English or radiology too, and so no name by itself."""
    return word in _ORDINARY_WORDS


def names_nobody(word: str) -> bool:
    """Whether a word in lower case is a title, a particle or a placeholder."""
    return word in _NO_NAME or word in _PARTICLES


class KnownNames:
    """Finds the names of the people in a patient's record, in any order, case and spelling of accents.

    Parameters
    ----------
    names
        One person each, folded to ASCII: "SMITH^JOHN^A", "Smith, John", "John Smith".
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._parts: set[str] = set()
        self._particles: set[str] = set()
        self._initials: set[str] = set()
        self._unspaced: list[re.Pattern[str]] = []
        self._long: tuple[str, ...] = ()
        for name in names:
            self._learn(name)
            for group in name.split("="):  # alphabetic, ideographic, phonetic (PS3.5 6.2.1.1)
                self._learn_unspaced(_UNSPACED.findall(group))
        self._long = tuple(sorted(part for part in self._parts if len(part) >= _LONG and not is_ordinary(part)))

    def find(self, text: str) -> Iterator[Hit]:
        """Yield the spans of names in ``text`` (folded; capitals kept)."""
        spans: list[tuple[int, int]] = []
        for run in self._runs(text) if self._parts else ():
            if not self._is_name(run, text):
                continue
            joined = spans and _UNKNOWN_MIDDLE.fullmatch(text, spans[-1][1], run[0].start())
            start = spans.pop()[0] if joined else self._start(run[0], text)
            spans.append((start, self._end(run[-1], text)))
        for match in _SPACED.finditer(text):  # S M I T H
            letters = re.sub(r"[ .]", "", match.group()).lower()
            if any(len(part) > 3 and part in letters for part in self._parts):
                spans.append(match.span())
        spans += [match.span() for pattern in self._unspaced for match in pattern.finditer(text)]
        for start, end in spans:
            yield start, end, Tag.NAME

    @staticmethod
    def _start(first: re.Match[str], text: str) -> int:
        """Where a name begins: at the given name of a relative or a nickname, if one stands before the family name."""
        start = first.start()
        given = _UNKNOWN_GIVEN.search(text[max(0, start - _GIVEN_REACH) : start])
        told = given is not None and first.group()[0].isupper() and _core(first.group()) not in _ORDINARY_WORDS
        if given is None or not told or is_ordinary(given[1].lower()) or names_nobody(given[1].lower()):
            return start
        return start - len(given.group())

    @staticmethod
    def _end(last: re.Match[str], text: str) -> int:
        """Where a name ends: with the other half of a double name that the record lacks ("Smith-Jones")."""
        double = _OTHER_HALF.match(text, last.end())
        return last.end() if double is None or is_ordinary(_core(last.group())) else double.end()

    def _learn_unspaced(self, words: list[str]) -> None:
        """Words of a script that is written without spaces: the name whole, and its parts of two characters or more."""
        orders = {tuple(words[:2]), tuple(words[1::-1])} if len(words) > 1 else set()
        orders |= {(word,) for word in words if len(unicodedata.normalize("NFC", word)) > 1}
        self._unspaced += [re.compile(r"[\s,^\u30fb]{0,2}".join(order)) for order in sorted(orders)]

    def _learn(self, name: str) -> None:
        words = [word for word in (_core(match.group()) for match in _WORD.finditer(name)) if word not in _NO_NAME]
        parts = [word for word in words if word not in _PARTICLES and len(word) > 1]
        self._particles |= {word for word in words if word in _PARTICLES}
        self._initials |= {word[0] for word in words if word not in _PARTICLES}
        for whole in _WORD.findall(name.lower()):  # O'Brien is written Brien, McDonald Mc Donald
            if _core(whole) in parts:
                rest = whole[2:] if whole.startswith("mc") else ""
                parts += [piece for piece in (*whole.split("'"), rest) if len(piece) > 3]
        joinable = [word for word in dict.fromkeys((*words, *parts)) if len(word) > 2 or word in {*_PARTICLES, "mc"}][
            :5
        ]
        for size in (2, 3):  # VANDYKE, JohnSmith
            together = [several for several in permutations(joinable, size) if not _PARTICLES.issuperset(several)]
            parts += ["".join(several) for several in together]
        for word in words:  # jsmith, smithj
            if len(word) >= _MIN_LOGIN and word not in _PARTICLES:
                initials = {other[0] for other in words if other != word and other not in _PARTICLES}
                parts += [login for initial in initials for login in (initial + word, word + initial)]
        self._parts |= {spelling for part in parts for spelling in _spellings(part)}

    def _runs(self, text: str) -> Iterator[list[re.Match[str]]]:
        """Yield maximal runs of neighbouring parts, initials and particles that hold at least one part."""
        run: list[re.Match[str]] = []
        for word in _WORD.finditer(text):
            if not (self._is_part(word) or _core(word.group()) in self._particles or self._may_be_initials(word)):
                continue
            if run and not self._continues(run[-1], word, text):
                yield from self._closed(run)
                run = []
            run.append(word)
        yield from self._closed(run)

    def _is_part(self, word: re.Match[str]) -> bool:
        core = _core(word.group())
        return any(spelling in self._parts for spelling in _spellings(core)) or self._holds_part(core)

    def _holds_part(self, core: str) -> bool:
        """Whether a long part is glued to something: "the Okonkwos", "pokonkwo2", "MRSOKONKWO"."""
        return len(core) > _LONG and any(part in core for part in self._long)

    def _is_initials(self, word: re.Match[str]) -> bool:
        return self._may_be_initials(word) and self._initials.issuperset(word.group().lower())

    def _may_be_initials(self, word: re.Match[str]) -> bool:
        """Whether these can be a person's initials: one letter can be of a middle name that the record lacks."""
        letters = word.group()
        return letters.isupper() and (
            len(letters) == 1 or (len(letters) <= 3 and self._initials.issuperset(letters.lower()))
        )

    def _continues(self, last: re.Match[str], word: re.Match[str], text: str) -> bool:
        gap = _GAP_AFTER_INITIAL if self._may_be_initials(last) else _GAP
        return gap.fullmatch(text, last.end(), word.start()) is not None

    def _closed(self, run: list[re.Match[str]]) -> Iterator[list[re.Match[str]]]:
        """End a run at its last part, or at the initials right behind it; without a part it is none."""
        known = [index for index, word in enumerate(run) if self._is_part(word)]
        if known:
            last = known[-1] + 1
            behind = last < len(run) and self._is_initials(run[last])
            yield run[: last + behind]

    def _is_name(self, run: list[re.Match[str]], text: str) -> bool:
        words = [word for word in run if self._is_part(word)]
        if len({_core(word.group()) for word in words}) > 1:
            return True
        return any(
            _stands_alone(word.group())
            or _TITLE_BEFORE.search(text[max(0, word.start() - _TITLE_REACH) : word.start()])
            # Of two letters, beside an initial: "J. Li".
            or (len(run) > 1 and word.group()[0].isupper() and _core(word.group()) not in _SHORT_WORDS)
            for word in words
        )


def _core(word: str) -> str:
    """Return the word in lower case without its possessive and apostrophes."""
    return re.sub(r"'s?$", "", word.lower()).replace("'", "")


def _spellings(part: str) -> Iterator[str]:
    """Yield the folded spellings of one part: as it is, and with a digraph read as an umlaut."""
    yield part
    folded = part
    for digraph, letter in _UMLAUTS:
        folded = folded.replace(digraph, letter)
    if len(folded) > 2:
        yield folded


def _stands_alone(word: str) -> bool:
    """Whether a part is certainly the name with nothing beside it."""
    core = _core(word)
    if word.lower() == word.upper():  # a script without capitals
        return True
    if len(core) == 2:  # Li, Ng: as a name is written, and no word
        return word[0].isupper() and word[1].islower() and core not in _SHORT_WORDS
    return word[0].isupper() or core not in _ORDINARY_WORDS


# ---- names that nobody told us --------------------------------------------------------------------------------------
_STOP = (
    r"(?i:and|or|at|on|in|of|to|the|this|that|with|from|for|by|who|was|were|is|are|has|had|have|will|if|please|not|no"
    r"|agrees?|reviewed|notified|informed|called|spoke|states?|team|service|department|clinic|hospital|office|unit|chest"
    r"|abdomen|pelvis|spine|head|neck|brain|findings?|impression|technique|comparison|history|indication|conclusion"
    r"|recommend\w*|report|exam\w*|study|scan|date|time|ct|mri|pet|us|ed|er|icu|phone|telephone|pager|md|dr|prof|there"
    r"|clinical|referring|attending|resident|radiolog\w+|physician|surgeon|nurse|oncolog\w+)\b"
)
_TITLE = r"(?:Drs?|DRS?|Prof|PROF|Professor|PROFESSOR|Doctor|DOCTOR|Mr|Mrs|Ms|Mx|Miss|Herr|Frau)\b\.?"
_TITLES = rf"\b(?:{_TITLE}|MR\.|MRS\.|MS\.)(?:\s+{_TITLE}|\s*(?:med|rer|phil|nat|habil)\.){{0,4}}"
_WORD_OF_NAME = rf"(?!{_STOP})(?:[A-Z]\.|[A-Z](?:['-]?[^\W\d_]){{0,30}}(?!\w))"
_BEFORE_WORD = r"(?:(?:von|van|der|den|de|del|della|di|da|du|la|le|bin|ibn|al|el|ter|ten)[ -]){0,2}"
_NAME = rf"{_BEFORE_WORD}{_WORD_OF_NAME}(?:[ \t]+{_BEFORE_WORD}{_WORD_OF_NAME}){{0,3}}"
_NAMES = rf"{_NAME}(?:(?:\s*[&/]\s*|\s+(?i:and)\s+)(?!{_TITLE}){_NAME})*"
_LISTED = rf"{_NAME}(?:,[ \t]*(?!{_TITLE}){_NAME})?(?:(?:\s*[&/;]\s*|\s+(?i:and)\s+)(?!{_TITLE}){_NAME})*"
# Capitalised, but not in capitals: behind a word that is not surely followed by a name.
_CAPITALISED = rf"(?!{_STOP})[A-Z](?:['-]?[^\W\d_]){{0,29}}[a-z](?!\w)"
_TWO_CAPITALISED = rf"{_CAPITALISED}(?:[ \t]+(?:[A-Z]\.[ \t]+)?{_BEFORE_WORD}{_CAPITALISED}){{1,2}}"
_DEGREE = r"(?:M\.?D\b\.?|MBBS|MBChB|FRCR|FRCPC|FRCS|FACR|Ph\.?D\b\.?|D\.O\.|DO\b|RN\b|NP\b|DNP\b|LPN\b|PA-C|ARNP|CRNP)"
_ACT = (
    r"(?i:dictated|signed|read|reported|interpreted|reviewed|approved|verified|transcribed|performed|authenticated"
    r"|authored|finali[sz]ed|ordered|requested|referred|prepared|entered|supervised|cosigned)"
)
_TOLD = r"(?i:discussed|communicated|conveyed|paged|relayed|given|reported|telephoned|spoke|conversation|called)"
_ROLE = (
    r"(?i:(?:(?:referring|ordering|attending|requesting|primary(?:\s+care)?|consulting|reading|interpreting"
    r"|responsible)\s+)?(?:physician|provider|clinician|doctor|radiologist|surgeon|oncologist|consultant|practitioner)s?"
    r"|attending|resident|fellow|registrar|technologist|sonographer|nurse|transcriptionist|author|referrer|gp|pcp"
    r"|patient(?:'s)?(?:\s+name)?|name|cc|attn)"
)
_PROFESSION = (
    r"(?i:physician|radiologist|surgeon|oncologist|consultant|practitioner|registrar|technologist|sonographer|nurse)"
)
_KIN = (
    r"(?i:wife|husband|spouse|partner|daughter|son|mother|father|mom|mum|dad|sister|brother|twin|niece|nephew|aunt|uncle"
    r"|cousin|grand(?:mother|father|son|daughter)|guardian|care(?:r|giver)|(?:next[ ]of[ ])?kin|friend|neighbou?r)"
)
_HEADING = (
    r"(?:Name|Age|Sex|Gender|Position\w*|Information|Data|Details|Demographics|Status|Location|Type|Class|Care|Dose"
    r"|Motion|Preparation|Identification|Id|Weight|Height|Birth|Number|Instructions?)\b"
)
_BY = rf"\b{_ACT}(?:\s+(?i:and|by|electronically|{_ACT})){{0,4}}\s+(?i:by)"
_WITH = (
    rf"\b{_TOLD}(?:\s+(?i:via|by|over|telephone|phone|the|verbally|directly|results?|findings?)){{0,4}}"
    r"\s+(?i:with|to)"
)
_STREET = r"(?:Street|St\.|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Boulevard|Blvd|Terrace|Way|Strasse)(?!\w)"
_HOUSE = r"(?:Hospital|Clinic|Infirmary|Hospice|Medical[ ]Cent(?:er|re)|Health[ ](?:System|Cent(?:er|re)))(?!\w)"
_UNTOLD = [
    re.compile(pattern)
    for pattern in (
        rf"{_TITLES}(?:\s+|(?<=\.))(?P<it>{_NAMES})",
        rf"\bDrs\b\.?\s+(?P<it>{_NAME}(?:,[ \t]*{_NAME})+)",
        rf"\b(?:drs?|prof|mrs)\b\.?[ \t]+(?P<it>(?!{_STOP})[a-z][a-z'-]+)(?!\w)",
        rf"{_BY}\s*:?\s+(?:{_TITLE}\s+)?(?P<it>{_LISTED})",
        rf"{_BY}\s*:\s*(?P<it>(?!{_STOP})[A-Za-z][\w'-]*)",  # a login
        rf"\b(?i:signed|dictated|transcribed|authenticated|signature)\s*[:,]\s*(?P<it>{_WORD_OF_NAME},?[ \t]+{_NAME})",
        rf"{_WITH}\s+(?:{_TITLE}\s+)?(?P<it>{_NAMES})",
        rf"\b{_ROLE}[ \t]*:[ \t]*(?:{_TITLE}\s+)?(?P<it>{_LISTED})",
        rf"\b{_PROFESSION}[ \t]+(?P<it>{_TWO_CAPITALISED})",
        rf"\b(?:[Pp]atient|[Rr]eferring)[ \t]+(?P<it>(?!{_HEADING}|\w+[ \t]+{_HEADING}){_TWO_CAPITALISED})",
        rf"\b{_KIN}(?:'s)?[,:]?[ \t]*\(?(?P<it>(?!Mary[ ]Joseph){_CAPITALISED}(?:[ \t]+{_CAPITALISED}){{0,2}})",
        rf"\bDear[ \t]+(?:{_TITLE}[ \t]+)?(?P<it>{_NAME})(?=\s*[,:\n])",
        rf"\b(?i:regards|sincerely|faithfully)[,.]?\s+(?P<it>{_TWO_CAPITALISED})",
        rf"(?<![\w.])I,[ \t]+(?P<it>{_TWO_CAPITALISED}),",
        rf"(?<![\w.])(?P<it>{_NAME}),[ \t]*{_DEGREE}(?!\w)",
        rf"(?<![\w.])(?P<it>{_WORD_OF_NAME}[ \t]+{_NAME})[ \t]+(?!DO\b){_DEGREE}(?!\w)",
        rf"(?<![\w.])(?P<it>\d{{1,5}}[A-Z]?[ \t]+(?:{_CAPITALISED}[ \t]+){{1,3}}{_STREET})",
        rf"(?<![\w.])(?P<it>(?:{_CAPITALISED}[ \t]+){{1,4}}{_HOUSE}(?:[ \t]+of[ \t]+{_CAPITALISED})?)",
    )
]
_IN_CAPITALS = re.compile(r"[^\s,]+,?[ \t]+[^\s,]+")


def find_untold_names(text: str) -> Iterator[Hit]:
    """Yield what stands where a person's name stands: behind a title or a label ("dictated by"), before a degree."""
    for pattern in _UNTOLD:
        for match in pattern.finditer(text):
            start, end = match.span("it")
            words = _IN_CAPITALS.match(text, start, end)
            if words and text[start:end].isupper() and " AND " not in text[start:end]:
                end = words.end()  # where all is in capitals, nothing shows where the name ends
            yield start, end, Tag.NAME
