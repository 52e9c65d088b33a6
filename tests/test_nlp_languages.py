"""Languages: a file each, the same names in all of them, and sentences that carry their own answer."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

import pytest
from test_nlp_sizes import check, sentences_of

from nlp import find_image_references, find_sizes
from nlp.languages import known_languages, load_language

FILES = {
    name: tomllib.loads(files("nlp.languages").joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    for name in ("shared", *known_languages())
}


@pytest.mark.parametrize("sentence", sentences_of("de"))
def test_german(sentence: str) -> None:
    check(sentence, "de")


@pytest.mark.parametrize("sentence", sentences_of("nl"))
def test_dutch(sentence: str) -> None:
    check(sentence, "nl")


def test_a_region_makes_no_difference() -> None:
    text = "Rundherd 1,2 cm, zuvor 9 mm."
    assert find_sizes(text, "de-DE") == find_sizes(text, "DE_at") == find_sizes(text, "de")
    assert find_image_references("Serie 4, Bild 87", "de-CH") == find_image_references("Serie 4, Bild 87", "de")


@pytest.mark.parametrize("find", [find_sizes, find_image_references])
@pytest.mark.parametrize("name", ["fr", "", "english", "shared", "../en"])
def test_an_unknown_language_is_refused_with_those_that_are_known(find: object, name: str) -> None:
    with pytest.raises(ValueError, match="known are de, en, nl"):
        find("12 mm", name)  # type: ignore[operator]


def test_every_language_has_every_word_list_and_nothing_else() -> None:
    english = FILES["en"]["words"].keys()
    for code in known_languages():
        assert FILES[code]["words"].keys() == english, code
        assert load_language(code).rules.keys() == FILES["shared"]["rules"].keys()


def test_every_word_list_is_used() -> None:
    used = {name for file in FILES.values() for name in re.findall(r"\{([a-z_]+)\}", str(file))}
    source = files("nlp").joinpath("patterns.py").read_text(encoding="utf-8")
    used |= set(re.findall(r"(?:words|lists)\[[\"']([a-z_]+)[\"']\]", source))
    assert FILES["en"]["words"].keys() | FILES["shared"]["words"].keys() == used


def test_every_rule_is_used() -> None:
    source = "".join(
        files("nlp").joinpath(name).read_text(encoding="utf-8")
        for name in ("context.py", "days.py", "contrast.py", "expressions.py")
    )
    assert all(f'"{rule}"' in source for rule in FILES["shared"]["rules"])


@pytest.mark.parametrize("code", sorted(FILES))
def test_anchored_patterns_have_no_alternative_outside_brackets(code: str) -> None:
    """What begins with "^" is only matched at the start, so a bar beside it would hide its second half."""
    for rule, patterns in FILES[code]["rules"].items():
        for pattern in patterns:
            if pattern.startswith("^") or pattern.endswith("$"):
                bare = re.sub(r"\[[^\]]*\]", "", re.sub(r"\\.", "", pattern))
                while (less := re.sub(r"\([^()]*\)", "", bare)) != bare:
                    bare = less
                assert "|" not in bare, (rule, pattern)
