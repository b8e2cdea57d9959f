"""Which questions are the same: those that say the same, never those that only look alike."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.cache.likeness import likeness, read_prose
from trivet.config.cache_settings import CacheSettings
from trivet.lab.question_pairs import alike_pairs, is_match, likeness_table, trigram_likeness, unlike_pairs

WORDS = (
    "not",
    "no",
    "never",
    "5",
    "6",
    "Paris",
    "paris",
    "US",
    "us",
    "please",
    "hi",
    "thanks",
    "the",
    "what",
)
THRESHOLD = CacheSettings().similarity_threshold


@pytest.mark.parametrize(("one", "other"), unlike_pairs())
def test_what_says_something_else_never_matches(one: str, other: str) -> None:
    """Not in either direction, and not at the lowest threshold there is."""
    assert not is_match(one, other, 1e-9)
    assert not is_match(other, one, 1e-9)


@pytest.mark.parametrize(("one", "other"), alike_pairs())
def test_what_says_the_same_matches(one: str, other: str) -> None:
    """In both directions."""
    assert is_match(one, other, THRESHOLD)
    assert is_match(other, one, THRESHOLD)


def test_a_measure_of_letters_could_not_tell_them_apart() -> None:
    """At every threshold at which trigrams find half of what is alike, they also find what is not."""
    table = likeness_table(THRESHOLD)
    assert (table["hits"], table["false_hits"]) == (table["alike"], 0)
    assert all(trigram_likeness(one, one) == 1.0 for one, _ in alike_pairs())
    for row in table["trigrams"]:  # type: ignore[attr-defined]
        assert row["false_hits"] > 0


def test_the_threshold_bounds_the_courtesies() -> None:
    """Words shared over all words; equal texts are 1."""
    plain = read_prose("What is the capital of France?")
    polite = read_prose("Hi, what is the capital of France? Thanks!")
    assert plain is not None
    assert polite is not None
    assert likeness(plain.words, plain.ado, polite.ado) == 6 / 8
    assert likeness(polite.words, polite.ado, polite.ado) == 1.0
    assert is_match("What is the capital of France?", "Hi, what is the capital of France? Thanks!", 0.75)
    assert not is_match("What is the capital of France?", "Hi, what is the capital of France? Thanks!", 0.76)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Thanks!",
        "Help",
        "def f(x): return x",
        "one line\nand another",
        "| a | b |",
        "2\u00b2 is what",
        "word " * 200,
        "\U0001d465 is a letter of mathematics",
    ],
)
def test_what_is_no_prose_is_compared_as_it_is(text: str) -> None:
    """Formulae, code, lists, long texts: none of them is taken apart."""
    assert read_prose(text) is None


@given(st.text(st.sampled_from("aAbcI019.,;:?!'\"-% \u00e9\u00b2\u00bd"), max_size=40))
def test_no_number_is_lost(text: str) -> None:
    """What is compared holds every digit of the text, in order, however odd the text."""
    prose = read_prose(text)
    if prose is not None:
        digits = [c for c in unicodedata.normalize("NFKC", text) if c.isdigit()]
        assert [c for token in prose.core for c in token if c.isdigit()] == digits


@given(st.lists(st.sampled_from(WORDS)))
def test_only_courtesies_are_left_out(words: list[str]) -> None:
    """Whatever is left out of a question is a courtesy; nothing that could deny, count or name."""
    prose = read_prose(" ".join(words))
    if prose is not None:
        assert set(prose.ado) <= {"please", "hi", "thanks"}
