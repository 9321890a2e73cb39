from __future__ import annotations

import pytest

from mvqkd.data.targets.spoken_text import SpokenText
from mvqkd.errors import UserError

pytest.importorskip("num2words")


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Hello,  world!", "HELLO WORLD"),
        ("Mr. Quilter and Dr Watson, St. Paul's", "MISTER QUILTER AND DOCTOR WATSON SAINT PAUL'S"),
        ("“Don’t,” he said; 'tis well-known.", "DON'T HE SAID 'TIS WELL KNOWN"),
        ("'quoted' the boys' toys", "QUOTED THE BOYS TOYS"),
        ("21 men, 1,860 horses", "TWENTY ONE MEN ONE THOUSAND EIGHT HUNDRED AND SIXTY HORSES"),
        ("in 1860 and 1805", "IN EIGHTEEN SIXTY AND EIGHTEEN OH FIVE"),
        ("the 1860s, the 1990's", "THE EIGHTEEN SIXTIES THE NINETEEN NINETIES"),
        ("the 22nd and the 3rd", "THE TWENTY SECOND AND THE THIRD"),
        ("$1.50, £1 and €20", "ONE DOLLAR AND FIFTY CENTS ONE POUND AND TWENTY EUROS"),
        ("$0.05", "FIVE CENTS"),
        ("$5 million", "FIVE MILLION DOLLARS"),
        ("3:30, 3:05, 7:00", "THREE THIRTY THREE OH FIVE SEVEN O'CLOCK"),
        ("3.14 -5 50%", "THREE POINT ONE FOUR MINUS FIVE FIFTY PERCENT"),
        ("salt & pepper", "SALT AND PEPPER"),
        ("ﬁne", "FINE"),
        ("naïve café", "NAÏVE CAFÉ"),
        ("...", ""),
    ],
)
def test_english(written: str, spoken: str) -> None:
    assert SpokenText()(written) == spoken
    assert SpokenText()(spoken) == spoken


def test_each_part_can_be_left_out() -> None:
    text = "Mr. Smith’s 2 cafés"
    assert SpokenText(case="lower")(text) == "mister smith's two cafés"
    assert SpokenText(case="keep", numbers="keep")(text) == "mister Smith's 2 cafés"
    assert SpokenText(abbreviations="keep")(text) == "MR SMITH'S TWO CAFÉS"
    assert SpokenText(unicode="ascii")(text) == "MISTER SMITH'S TWO CAFES"
    assert SpokenText(punctuation="keep", case="keep")("A, b.") == "A, b."


def test_numbers_of_other_languages() -> None:
    assert SpokenText(language="de")("22 Kühe, 3.5") == "ZWEIUNDZWANZIG KÜHE DREI KOMMA FÜNF"
    with pytest.raises(UserError, match=r"does not know numbers .* of the language 'xx'"):
        SpokenText(language="xx")("22")


def test_numbers_without_names_are_read_digit_by_digit() -> None:
    assert SpokenText()("1" * 400) == " ".join(["ONE"] * 400)


def shout(text: str) -> str:
    return text.replace("!", " bang")


def nothing(text: str) -> None:
    return None


def test_a_function_of_the_user_comes_first_and_is_recorded() -> None:
    spoken = SpokenText(function=f"python:{__name__}:shout")
    assert spoken("Hey!") == "HEY BANG"
    described = spoken.describe()
    assert described["function"].endswith(":shout") and len(described["function_sha256"]) == 64
    assert SpokenText().describe()["case"] == "upper"
    with pytest.raises(UserError, match="cannot be imported"):
        SpokenText(function="python:tests:no_such_function")("a")
    with pytest.raises(UserError, match="returned NoneType, no text"):
        SpokenText(function=f"{__name__}:nothing")("a")
