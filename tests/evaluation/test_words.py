"""Characters wrong, missing and added."""

from __future__ import annotations

import pytest

from xtts_export_callback.evaluation.words import characters, compare, speaking_time

TEXT = "inbeingcomparativelymodern"


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("It's a Wood-cutter's, no?", "en", "itsawoodcuttersno"),
        ("Grüße, Straße", "de", "grüßestraße".casefold()),
        ("你好\uff0c世界\u3002", "zh-cn", "你好世界"),
        ("हिन्दी", "hi", "हिन्दी"),
        ("... !", "en", ""),
    ],
)
def test_what_cannot_be_heard_does_not_count(text: str, language: str, expected: str) -> None:
    assert characters(text, language) == expected


def test_the_same_words_have_nothing_wrong() -> None:
    assert compare(TEXT, TEXT) == (0.0, 0, 0)


def test_a_text_that_goes_on_has_extra_characters() -> None:
    found = compare(TEXT, TEXT + "modern")

    assert (found.missing, found.extra) == (0, 6)
    assert found.wrong == pytest.approx(6 / 26)


def test_a_text_that_is_cut_has_missing_characters() -> None:
    found = compare(TEXT, TEXT[:15])

    assert (found.missing, found.extra) == (11, 0)


def test_a_wrong_letter_inside_is_neither_missing_nor_extra() -> None:
    assert compare(TEXT, TEXT.replace("comp", "camp")) == (pytest.approx(1 / 26), 0, 0)


def test_nothing_heard_is_all_wrong_and_all_missing() -> None:
    assert compare(TEXT, "") == (1.0, 26, 0)


def test_a_character_of_chinese_takes_longer_than_a_letter() -> None:
    assert speaking_time(10, "zh-cn") > 2 * speaking_time(10, "en")


def test_numbers_are_spelled_out_as_they_are_said() -> None:
    pytest.importorskip("TTS")

    assert characters("in 42 lines", "en") == "infortytwolines"
