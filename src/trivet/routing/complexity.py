"""The explainable complexity estimator: five weighted factors, 0 to 1, and the tier that they recommend.

It is a prior, not a predictor. On public prompts without hints it is hardly better than chance (its
keyword and length cues do not know what a model can do), which is why its answer is shown factor by
factor, why policies and hints may overrule it, and why it is the baseline for anything learned.
A bare prompt cannot exceed 0.5: half of the weight lies in what the caller says about the request.
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache, partial

from trivet.domain.decisions import Complexity
from trivet.domain.tiers import ModelTier, Tier
from trivet.routing.signals import KEYWORD_STEMS, criticality, keyword_weight, stem_index

FACTOR_WEIGHTS: dict[str, float] = {
    "message": 0.30,
    "context": 0.15,
    "capability": 0.25,
    "depth": 0.10,
    "keywords": 0.20,
}
"""What each factor contributes to the score; they add up to 1."""

DEFAULT_TIERS: tuple[Tier, ...] = (
    Tier(name=ModelTier.LIGHT.value, order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=0.3),
    Tier(name=ModelTier.STANDARD.value, order=1, cost_weight=3.0, complexity_low=0.3, complexity_high=0.7),
    Tier(name=ModelTier.HEAVY.value, order=2, cost_weight=10.0, complexity_low=0.7, complexity_high=1.0),
)
"""The ranges and cost weights of the default configuration."""

# Where each cue counts in full. Growth is logarithmic where a doubling means the same at any size.
WORDS_FULL = 200
RICHNESS_FULL = 7.0
SENTENCE_WORDS_FULL = 20.0
CONTEXT_TOKENS_FULL, CONTEXT_TOKENS_UNIT = 4096, 256
DEPTH_TURNS_FULL = 20
MAX_CAPABILITIES = 64
SHAPES_MAX = 4096
"""Kinds of counts whose score is kept."""

_WORDS_GROWN = math.log1p(WORDS_FULL)
_MESSAGE, _CONTEXT, _CAPABILITY, _DEPTH, _KEYWORDS = FACTOR_WEIGHTS.values()

# One pass: pairs of Chinese or Japanese characters (about a word), words, ends of sentences.
_TOKENS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{1,2}|\w+(?:['\u2019.]\w+)*|[.!?\u3002\uff01\uff1f]+")
_SENTENCE_ENDS = ".!?\u3002\uff01\uff1f"
_ENDING = " .!?"
_FIRST_PAIRED = "\u3040"
_BETWEEN = bytes(code for code in range(128) if not (chr(code).isalnum() or chr(code) in "_'.!?"))
_PARTED = bytes.maketrans(_BETWEEN, b" " * len(_BETWEEN))
# What often stands around words and is in no token: ASCII's, dashes, quotation marks.
_AROUND = _BETWEEN.decode() + "\u2013\u2014\u2026\u201c\u201d\u201e\u00ab\u00bb"


class ComplexityEstimator:
    """Scores how demanding a request looks. Stateless, deterministic, safe to share."""

    def __init__(self, tiers: Sequence[Tier] | None = None, *, text_limit_chars: int = 3000) -> None:
        """Take the tiers whose ranges recommend, and how much of a message is looked at.

        Args:
            tiers: by default light, standard, heavy at 0-0.3-0.7-1.
            text_limit_chars: characters scored; the rest of a longer message is ignored.
        """
        self._tiers = tuple(sorted(tiers or DEFAULT_TIERS, key=lambda tier: tier.complexity_low))
        self._text_limit_chars = text_limit_chars
        self._stems = stem_index(KEYWORD_STEMS)
        # Of texts only counts are weighed, and short ones, most of all that come, have few that differ.
        self._weighed = lru_cache(maxsize=SHAPES_MAX)(partial(_weighed, self._tiers))

    async def estimate(
        self,
        message: str,
        context_length: int = 0,
        agent_capabilities: Sequence[str] | None = None,
        history_length: int = 0,
    ) -> Complexity:
        """Return `score(...)`; a coroutine only so that a slower estimator can take its place."""
        return self.score(message, context_length, agent_capabilities, history_length)

    def score(
        self,
        message: str,
        context_length: int = 0,
        agent_capabilities: Sequence[str] | None = None,
        history_length: int = 0,
    ) -> Complexity:
        """Score a request.

        Args:
            message: the user's text, any Unicode; only its first `text_limit_chars` count.
            context_length: tokens of retrieved context that the answer must take into account.
            agent_capabilities: names such as `security_analysis`; the most critical one counts.
            history_length: turns of conversation before this message.
        """
        count, distinct, sentences = _words(message[: self._text_limit_chars].lower())
        score, factors, tier = self._weighed(
            count,
            len(distinct),
            sentences,
            keyword_weight(distinct, self._stems),
            context_length,
            _capability_factor(agent_capabilities) if agent_capabilities else 0.0,
            history_length,
        )
        return Complexity(score, dict(factors), tier)


def _weighed(
    tiers: Sequence[Tier],
    count: int,
    distinct: int,
    sentences: int,
    keywords: float,
    context_length: int,
    capability: float,
    history_length: int,
) -> tuple[float, dict[str, float], str]:
    """Return the score, the factors and the recommended tier of what was counted."""
    factors = {
        "message": round(_message_factor(count, distinct, sentences), 4) if count else 0.0,
        "context": round(_context_factor(context_length), 4) if context_length else 0.0,
        "capability": round(capability, 4),
        "depth": round(_growth(history_length, DEPTH_TURNS_FULL), 4) if history_length else 0.0,
        "keywords": round(keywords, 4),
    }
    total = (
        _MESSAGE * factors["message"]
        + _CONTEXT * factors["context"]
        + _CAPABILITY * factors["capability"]
        + _DEPTH * factors["depth"]
        + _KEYWORDS * factors["keywords"]
    )
    # Rounded before it is compared: the score that is shown is the score that recommends.
    score = min(1.0, round(total, 4))
    return score, factors, recommended_tier(score, tiers).name


def _message_factor(count: int, distinct: int, sentences: int) -> float:
    """Return it for so many words, so many distinct ones among them, in so many sentences."""
    length = math.log1p(count) / _WORDS_GROWN if count < WORDS_FULL else 1.0
    # Guiraud's index (distinct words over the root of all): unlike the plain ratio it does not
    # call every short message rich and every long one poor.
    richness = min(1.0, distinct / math.sqrt(count) / RICHNESS_FULL)
    structure = min(1.0, count / (sentences or 1) / SENTENCE_WORDS_FULL)
    return 0.4 * length + 0.3 * richness + 0.3 * structure


def _words(text: str) -> tuple[int, set[str], int]:
    """Return how many words a text in lower case has, the distinct ones, and its ends of sentences."""
    # Parted at what no token holds, most of a text are words already; only the rest takes the pattern.
    if text.isascii():
        parted = text.encode().translate(_PARTED).decode()  # in a tenth of the time that a text's takes
        said = parted.rstrip(_ENDING)
        if "." not in said and said.replace(" ", "").isalnum():
            # One sentence, with no mark but the one at its end.
            parts = said.split()
            return len(parts), set(parts), len(parted[len(said) :].split())
        parts = parted.split()
        distinct = set(parts)
        rough = {part: 0 for part in distinct if not part.isalnum()}
    else:
        parts = text.split()
        distinct = set(parts)
        rough = {part: 0 for part in distinct if not part.isalnum() or part[0] >= _FIRST_PAIRED}
    count, ends = len(parts), 0
    if not rough:
        return count, distinct, ends
    for part in parts:
        if part in rough:
            rough[part] += 1
    distinct -= rough.keys()
    for part, times in rough.items():
        bare = part.strip(_AROUND)
        word = bare.rstrip(_SENTENCE_ENDS)
        if word.isalnum() and word[0] < _FIRST_PAIRED:
            distinct.add(word)
            ends += times if len(word) < len(bare) else 0
            continue
        tokens = _TOKENS.findall(bare)
        words = [token for token in tokens if token[0] not in _SENTENCE_ENDS]
        distinct.update(words)
        count += (len(words) - 1) * times
        ends += (len(tokens) - len(words)) * times
    return count, distinct, ends


def recommended_tier(score: float, tiers: Sequence[Tier]) -> Tier:
    """Return the tier whose range [low, high) holds the score; the last one also holds its upper end.

    Args:
        score: 0 to 1.
        tiers: ordered by their ranges, which join without gaps; not empty.
    """
    for tier in tiers:
        if score < tier.complexity_high:
            return tier
    return tiers[-1]


def confidence(score: float, tiers: Sequence[Tier]) -> float:
    """Return how far the score is from the nearest boundary of its tier: 0 on it, 1 as far as can be.

    The ends 0 and 1 of the scale are no boundaries: nothing lies beyond them.
    """
    tier = recommended_tier(score, tiers)
    width = tier.complexity_high - tier.complexity_low
    below = score - tier.complexity_low
    above = tier.complexity_high - score
    if len(tiers) == 1:
        return 1.0
    if tier is tiers[0]:
        share = above / width
    elif tier is tiers[-1]:
        share = below / width
    else:
        share = 2.0 * min(above, below) / width
    return round(min(1.0, max(0.0, share)), 4)


def _growth(count: float, full: float) -> float:
    """Return 0 for nothing, 1 from `full` on, and in between the same step for each doubling."""
    return math.log1p(max(0, min(count, full))) / math.log1p(full)


def _context_factor(tokens: int) -> float:
    # Clamped first: an absurdly large integer must not overflow the division.
    units = max(0, min(tokens, CONTEXT_TOKENS_FULL)) / CONTEXT_TOKENS_UNIT
    return _growth(units, CONTEXT_TOKENS_FULL / CONTEXT_TOKENS_UNIT)


def _capability_factor(capabilities: Sequence[str] | None) -> float:
    if not capabilities:
        return 0.0
    names = (capabilities,) if isinstance(capabilities, str) else capabilities[:MAX_CAPABILITIES]
    return max(criticality(name[:200]) for name in names)
