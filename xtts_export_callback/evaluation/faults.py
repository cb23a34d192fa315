"""Find the faults of a clip: in its sound, in what was heard of it, and in the codes that the model drew."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xtts_export_callback.evaluation.words import speaking_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xtts_export_callback.evaluation.sound import Segment
    from xtts_export_callback.evaluation.words import Comparison

NO_STOP = "no stop token"
SPEECH_AFTER = "speech after the text"
CUT_SHORT = "cut short"
LONG_GAP = "long gap"
LOOP = "loop in the codes"
SILENCE = "silence"
NO_SPEECH = "no speech"
KINDS = (NO_STOP, SPEECH_AFTER, CUT_SHORT, LONG_GAP, LOOP, SILENCE, NO_SPEECH)

_SILENT = 0.003
"""Peak of a silent clip, -50 dB of full scale; 16-bit recordings in a quiet room stay above it."""
_LONGEST_GAP = 1.0  # s; 0.3 in LJSpeech, and coqui-tts adds none
_TOO_LONG, _TOO_SHORT = 1.8, 0.55  # of the usual time of a text; fast and slow speakers have 0.7 and 1.4
_MOST_WRONG = 0.35  # of the characters before the end; beyond, the recogniser cannot tell where the text ends
_FEWEST_EXTRA, _MOST_EXTRA, _EXTRA = 5, 12, 0.15  # characters, characters, and a share of the text between them
_MISSING, _SOME_MISSING, _RATHER_SHORT = 0.25, 0.15, 0.75  # of the text, of the text, of its usual time
_LOOP_CODES, _LONGEST_PERIOD, _ROUNDS = 22, 22, 3  # 21.5 codes are a second


class Codes(NamedTuple):
    """What the GPT of XTTS drew for a sentence.

    Attributes:
        drawn: The audio codes without the stop token.
        stopped: Whether it drew the stop token within its limit.
    """

    drawn: tuple[int, ...]
    stopped: bool


class Heard(NamedTuple):
    """What is known of a clip.

    Attributes:
        seconds: Its length.
        peak: Largest absolute sample, 1.0 for full scale.
        speech: Where there is speech.
        characters: Number of characters of the text, as `words.characters` counts them.
        language: Language of the text.
        comparison: Text and recognised words; None without a recogniser for the language.
        codes: None for a recording.
    """

    seconds: float
    peak: float
    speech: Sequence[Segment]
    characters: int
    language: str
    comparison: Comparison | None = None
    codes: Codes | None = None


def faults_of(clip: Heard) -> list[str]:
    """Return the kinds of faults of a clip, in the order of `KINDS`.

    The end of the text is found in the recognised words where there are any, and else judged by the length of the
    speech alone, at a usual speed (`words.speaking_time`). Only the words see a second of babble after a sentence of
    ten seconds; by length, nearly as much again has to follow. In noise, where the words fail, the length decides.

    Tried on eight clips of LJSpeech and five of LibriVox (1.8 to 9.7 s): none of the 13 clean ones has a fault. Of the
    eight, cut to three fifths, with their last third said twice, with 1.5 s of another clip after them, with 1.5 s of
    silence inside, silent, or noise alone, every one has the right one and no other.

    Args:
        clip: The clip.
    """
    found = set(faults_of_codes(clip.codes)) if clip.codes is not None else set()
    expected = speaking_time(clip.characters, clip.language)
    if clip.peak < _SILENT:
        return _in_order(found | {SILENCE})
    if not clip.speech:
        short = {CUT_SHORT} if clip.seconds < _TOO_SHORT * expected else set()
        return _in_order(found | short | {NO_SPEECH})
    start, end = clip.speech[0].start, clip.speech[-1].end
    said = sum(segment.end - segment.start for segment in clip.speech)
    silences = [
        start,
        clip.seconds - end,
        *(b.start - a.end for a, b in zip(clip.speech, clip.speech[1:], strict=False)),
    ]
    if max(silences) > _LONGEST_GAP:
        found.add(LONG_GAP)
    if said > _TOO_LONG * expected + 0.5:
        found.add(SPEECH_AFTER)
    if end - start < _TOO_SHORT * expected:
        found.add(CUT_SHORT)
    if clip.comparison is not None:
        found |= _faults_of_words(clip.comparison, clip.characters, end - start, expected)
    return _in_order(found)


def _faults_of_words(found: Comparison, characters: int, seconds: float, expected: float) -> set[str]:
    wrong = found.wrong * characters
    is_followed = found.extra >= max(_FEWEST_EXTRA, min(_MOST_EXTRA, _EXTRA * characters))
    if is_followed and wrong - found.extra <= _MOST_WRONG * characters:
        return {SPEECH_AFTER}
    said = characters - found.missing
    if wrong - found.missing > _MOST_WRONG * said:
        return set()
    # Words that the recogniser could not make out also took their time; words that were not said took none.
    is_cut = found.missing >= _MISSING * characters and seconds < 1.5 * expected * said / characters
    is_cut |= found.missing >= _SOME_MISSING * characters and seconds < _RATHER_SHORT * expected
    return {CUT_SHORT} if is_cut else set()


def faults_of_codes(codes: Codes) -> list[str]:
    """Return the faults that the codes alone show: no stop token, and loops."""
    return _in_order(({NO_STOP} if not codes.stopped else set()) | ({LOOP} if has_loop(codes.drawn) else set()))


def has_loop(codes: Sequence[int]) -> bool:
    """Whether codes repeat themselves for a second: a piece of up to a second, three times or more in a row.

    Args:
        codes: Audio codes, 21.5 a second.
    """
    for period in range(1, _LONGEST_PERIOD + 1):
        run = 0
        for one, later in zip(codes, codes[period:], strict=False):
            run = run + 1 if one == later else 0
            if run + period >= max(_LOOP_CODES, _ROUNDS * period):
                return True
    return False


def _in_order(kinds: set[str]) -> list[str]:
    return [kind for kind in KINDS if kind in kinds]
