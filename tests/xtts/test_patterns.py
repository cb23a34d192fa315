"""Which tensors a rule means."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.files import layout, speaks
from tests.models.generated import SPECIFICATION
from xtts_export_callback.xtts.patterns import ALIASES, matches, suggestion

NAMES = [name.removeprefix("xtts.") for name in layout() if speaks(name)]


@pytest.mark.parametrize(
    ("pattern", "name", "is_meant"),
    [
        ("gpt.gpt.h.1.**", "gpt.gpt.h.1.attn.c_attn.weight", True),
        ("gpt.gpt.h.1.**", "gpt.gpt.h.11.attn.c_attn.weight", False),
        ("gpt.gpt.h.1", "gpt.gpt.h.1.attn.c_attn.weight", False),
        ("gpt.gpt.h.1*.**", "gpt.gpt.h.11.attn.c_attn.weight", True),
        ("gpt.gpt.h.[0-9].**", "gpt.gpt.h.7.ln_1.bias", True),
        ("gpt.gpt.h.[0-9].**", "gpt.gpt.h.17.ln_1.bias", False),
        ("gpt.gpt.h.?.ln_1.*", "gpt.gpt.h.7.ln_1.bias", True),
        ("gpt.*", "gpt.gpt.h.7.ln_1.bias", False),
        ("**.bias", "gpt.gpt.h.7.ln_1.bias", True),
        ("**.ln_1.**", "gpt.gpt.h.7.ln_1.bias", True),
        ("**.h.**.bias", "gpt.gpt.h.7.ln_1.bias", True),
        ("gpt.**", "gpt", False),
        ("h.7", "gpt.gpt.h.7", False),
        ("mel_stats", "mel_stats", True),
        ("decoder", "hifigan_decoder.waveform_decoder.conv_pre.weight", True),
        ("decoder", "hifigan_decoder.speaker_encoder.fc.weight", False),
    ],
)
def test_patterns_are_anchored_on_whole_dotted_names(pattern: str, name: str, is_meant: bool) -> None:
    assert matches(pattern, name) is is_meant


@pytest.mark.parametrize(
    ("alias", "count"),
    [
        ("gpt", 426),
        ("perceiver", 16),
        ("conditioning_encoder", 38),
        ("text_embedding", 1),
        ("decoder", 241),
        ("speaker_encoder", 295),
    ],
)
def test_aliases_mean_parts_of_the_real_model(alias: str, count: int) -> None:
    assert sum(matches(alias, name) for name in NAMES) == count


def test_every_alias_is_tested() -> None:
    assert set(ALIASES) == {
        "gpt", "perceiver", "conditioning_encoder", "text_embedding", "decoder", "speaker_encoder"
    }  # fmt: skip


@given(st.lists(st.sampled_from(["a", "b", "*", "**", "?"]), min_size=1, max_size=6), st.lists(st.sampled_from("ab")))
@settings(SPECIFICATION, max_examples=300)
def test_double_stars_stand_for_one_or_more_components(pattern: list[str], parts: list[str]) -> None:
    def means(pattern: list[str], parts: list[str]) -> bool:
        if not pattern or not parts:
            return not pattern and not parts
        if pattern[0] == "**":
            return any(means(pattern[1:], parts[taken:]) for taken in range(1, len(parts) + 1))
        return (pattern[0] in {"*", "?"} or pattern[0] == parts[0]) and means(pattern[1:], parts[1:])

    if parts:
        assert matches(".".join(pattern), ".".join(parts)) == means(pattern, parts)


def test_a_hostile_pattern_takes_no_time() -> None:
    started = time.process_time()
    assert not matches(".".join(["**", "*a*a*a*a*a*b"] * 40), ".".join(["a" * 40] * 200))
    assert time.process_time() - started < 5  # a naive matcher takes years


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("gpt.gpt.h.1", "gpt.gpt.h.1.**"),
        ("perciever", "perceiver"),
        ("hifigan_decoder.waveform_decodr.**", "hifigan_decoder.waveform_decoder.**"),
        ("gpt.text_embeding.weight", "gpt.text_embedding.weight"),
    ],
)
def test_a_pattern_that_means_nothing_is_answered_with_what_was_meant(pattern: str, meant: str) -> None:
    assert suggestion(pattern, NAMES) == f"; did you mean {meant}?"
