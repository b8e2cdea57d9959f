"""The five-factor estimator: the seed's own test, its factors one by one, its edges."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.routing.parts import HEAVY, LIGHT, STANDARD, UNTIMED, ZERO_TRUST
from trivet.domain.tiers import Tier
from trivet.routing.complexity import (
    _SENTENCE_ENDS,
    _TOKENS,
    DEFAULT_TIERS,
    FACTOR_WEIGHTS,
    ComplexityEstimator,
    _words,
    confidence,
    recommended_tier,
)

ODD = "\xe9\xb2\xa0\u2019\u201c\u2014\u2026\u3042\u30fb\u4e00\u3002\u3000\uff01\U0001f600\ud800"
"""A letter, a digit, a blank, what stands around words, pairs of letters, ends of sentences, no letters."""


async def test_complexity_estimation() -> None:
    """The Testing block of the usage guide passes as it stands there."""
    estimator = ComplexityEstimator()

    # Simple task
    simple = await estimator.estimate("Hello", context_length=0)
    assert simple.score < 0.3
    assert simple.recommended_tier == "light"

    # Complex task
    complex_msg = """
    Analyze the security implications of implementing a
    zero-trust architecture with mutual TLS authentication...
    """
    complex = await estimator.estimate(  # noqa: A001 - the guide's own name
        message=complex_msg,
        context_length=2048,
        agent_capabilities=["security_analysis"],
    )
    assert complex.score > 0.7
    assert complex.recommended_tier == "heavy"


def test_the_quick_start_request_is_heavy() -> None:
    """The guide's quick start, a security analysis in a conversation, is work for the heavy tier."""
    complexity = ComplexityEstimator().score(
        "Analyze the security implications of this architecture design",
        context_length=1024,
        agent_capabilities=["security_analysis", "architecture"],
        history_length=5,
    )
    assert complexity.recommended_tier == "heavy"


def test_weights_are_the_guides() -> None:
    """Message 30 %, context 15 %, capability 25 %, depth 10 %, keywords 20 %."""
    assert FACTOR_WEIGHTS == {
        "message": 0.30,
        "context": 0.15,
        "capability": 0.25,
        "depth": 0.10,
        "keywords": 0.20,
    }


def test_score_is_the_weighted_sum_of_the_factors_shown() -> None:
    """The score can be recomputed from the factors and the weights."""
    complexity = ComplexityEstimator().score(ZERO_TRUST, 700, ["planning"], 3)
    total = sum(FACTOR_WEIGHTS[name] * value for name, value in complexity.factors.items())
    assert list(complexity.factors) == list(FACTOR_WEIGHTS)
    assert complexity.score == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(
    ("factor", "less", "more"),
    [
        ("message", {"message": "Hello"}, {"message": "Hello there, what is the time in Lima just now?"}),
        ("message", {"message": "go " * 50}, {"message": "the old grey cat sat on my mat " * 7}),
        ("message", {"message": "One. Two. Three."}, {"message": "One two three."}),
        ("context", {"context_length": 0}, {"context_length": 100}),
        ("context", {"context_length": 100}, {"context_length": 4096}),
        ("capability", {"agent_capabilities": None}, {"agent_capabilities": ["knitting"]}),
        ("capability", {"agent_capabilities": ["intent_classification"]}, {"agent_capabilities": ["code"]}),
        ("capability", {"agent_capabilities": ["code"]}, {"agent_capabilities": ["chat", "Security Review"]}),
        ("depth", {"history_length": 0}, {"history_length": 1}),
        ("depth", {"history_length": 1}, {"history_length": 20}),
        ("keywords", {"message": "Hello"}, {"message": "Compare"}),
        ("keywords", {"message": "Compare"}, {"message": "Compare the architectures"}),
    ],
)
def test_each_factor_grows_with_its_cue(
    factor: str, less: dict[str, object], more: dict[str, object]
) -> None:
    """More of a cue gives a higher value of its factor."""
    estimator = ComplexityEstimator()
    low = estimator.score(**{"message": "x", **less})  # type: ignore[arg-type]
    high = estimator.score(**{"message": "x", **more})  # type: ignore[arg-type]
    assert low.factors[factor] < high.factors[factor]


@pytest.mark.parametrize(
    ("factor", "arguments", "expected"),
    [
        ("message", {"message": ""}, 0.0),
        ("message", {"message": " \n?!"}, 0.0),
        ("context", {"context_length": -5}, 0.0),
        ("context", {"context_length": 10**400}, 1.0),
        ("capability", {"agent_capabilities": []}, 0.0),
        ("capability", {"agent_capabilities": "security"}, 1.0),
        ("capability", {"agent_capabilities": ["pii_detection"]}, 0.1),
        ("depth", {"history_length": -1}, 0.0),
        ("depth", {"history_length": 10**9}, 1.0),
        ("keywords", {"message": "analyze security architecture risks"}, 1.0),
        ("keywords", {"message": "Analyse, analyze: ANALYSIS!"}, 0.3),
    ],
)
def test_factors_at_their_ends(factor: str, arguments: dict[str, object], expected: float) -> None:
    """Factors saturate at 0 and 1, and a keyword counts once however it is inflected."""
    complexity = ComplexityEstimator().score(**{"message": "x", **arguments})  # type: ignore[arg-type]
    assert expected == complexity.factors[factor]


def test_only_the_beginning_of_a_huge_message_counts() -> None:
    """Text beyond the limit changes nothing."""
    estimator = ComplexityEstimator(text_limit_chars=100)
    text = "Explain the weather. " * 20
    assert estimator.score(text[:100]) == estimator.score(text + "security " * 100_000)


def test_languages_without_blanks_are_counted_in_words() -> None:
    """A Chinese sentence is not one long word."""
    chinese = ComplexityEstimator().score(
        "\u8bf7\u5206\u6790\u8fd9\u4e2a\u67b6\u6784\u7684\u5b89\u5168\u5f71\u54cd\u3002"
    )
    assert chinese.factors["message"] > ComplexityEstimator().score("Hello").factors["message"]


@UNTIMED
@given(
    st.text(st.characters(), max_size=400),
    st.integers(),
    st.lists(st.text(max_size=30), max_size=5) | st.none(),
    st.integers(),
)
def test_any_input_gives_a_score_within_bounds(
    message: str, context_length: int, capabilities: list[str] | None, history_length: int
) -> None:
    """Whatever comes in, lone surrogates included, score and factors lie in 0..1 and are the same again."""
    estimator = ComplexityEstimator()
    complexity = estimator.score(message, context_length, capabilities, history_length)
    assert 0.0 <= complexity.score <= 1.0
    assert all(0.0 <= value <= 1.0 for value in complexity.factors.values())
    assert complexity == estimator.score(message, context_length, capabilities, history_length)


@UNTIMED
@given(
    st.text(alphabet=string.printable + ODD, max_size=60)
    | st.text(alphabet=string.printable, max_size=60)
    | st.text(alphabet="ab, .!?", max_size=12)
)
def test_texts_are_parted_as_by_the_pattern_alone(text: str) -> None:
    """Parting a text before the pattern is asked saves time and changes nothing."""
    text = text.lower()
    tokens = _TOKENS.findall(text)
    words = [token for token in tokens if token[0] not in _SENTENCE_ENDS]
    assert _words(text) == (len(words), set(words), len(tokens) - len(words))


def test_what_is_kept_of_a_score_is_nobodys_to_change() -> None:
    """Texts with the same counts have the same score, each with factors of its own."""
    estimator = ComplexityEstimator()
    first, second = estimator.score("Tell me a story."), estimator.score("Sing us a song.")
    assert first == second
    first.factors["message"] = 9.0
    assert estimator.score("Show it a house.") == second


def test_a_lone_surrogate_is_text_like_any_other() -> None:
    """Half a surrogate pair, which JSON allows, is scored without an error."""
    assert ComplexityEstimator().score("a \ud800 b").score > 0.0


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.0, LIGHT), (0.2999, LIGHT), (0.3, STANDARD), (0.6999, STANDARD), (0.7, HEAVY), (1.0, HEAVY)],
)
def test_ranges_are_half_open_and_the_last_is_closed(score: float, expected: Tier) -> None:
    """A score on a boundary belongs to the tier above; 1.0 belongs to the last."""
    assert expected == recommended_tier(score, DEFAULT_TIERS)


def test_other_tiers_recommend_by_their_own_ranges() -> None:
    """Two tiers of other names are recommended by their own ranges, in whatever order they are given."""
    small = Tier(name="small", order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=0.03)
    large = Tier(name="large", order=1, cost_weight=4.0, complexity_low=0.03, complexity_high=1.0)
    estimator = ComplexityEstimator([large, small])
    assert estimator.score("").recommended_tier == "small"
    assert estimator.score("Hello").recommended_tier == "large"


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.0, 1.0), (0.15, 0.5), (0.3, 0.0), (0.5, 1.0), (0.4, 0.5), (0.7, 0.0), (0.85, 0.5), (1.0, 1.0)],
)
def test_confidence_is_the_distance_to_the_nearest_boundary(score: float, expected: float) -> None:
    """Confidence is 0 on a boundary between tiers and 1 as far from it as the tier allows."""
    assert expected == pytest.approx(confidence(score, DEFAULT_TIERS))


def test_a_single_tier_is_certain() -> None:
    """Without a boundary there is no doubt."""
    only = Tier(name="only", order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=1.0)
    assert confidence(0.4, [only]) == 1.0
