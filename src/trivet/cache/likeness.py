"""When two questions are one and the same, asked with more or less ado. Pure.

A measure of likeness alone cannot tell: "raise the limit to 80" and "raise the limit to 90" are more alike
than most true paraphrases. So the words that carry meaning must be equal, in their order, and only what is
known to carry none may differ: letters' case, spaces, the final stop, contractions, British and American
spelling, greetings, "please", "could you tell me". The threshold bounds how much of that may differ.

Numbers, negations and names therefore never differ within a match. What could hide a meaning in its signs
(formulae, code, lists, several lines) is not prose, and only the very same text is like it. The courtesies
are English ones; in another language nothing but case, spaces and the final stop is known to be idle.
"""

import unicodedata
from collections import Counter
from dataclasses import dataclass

from trivet.cache.english import (
    ASKING,
    BEFORE_A_QUESTION,
    BEFORE_AN_ORDER,
    CONTRACTIONS,
    DOING,
    GREETINGS,
    PLEASE,
    SPELLINGS,
    TELLING,
    THANKS,
    TWO_FACED,
)

CHARS_MAX = 600
"""A longer text says too much for one word of it to show."""

_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " "})
_SIGNS = frozenset(".,;:?!'\"-%$\u20ac\u00a3 \t")
_MEANINGFUL_FORMS = ("<super>", "<sub>", "<fraction>", "<circle>", "<square>", "<font>")
"""What NFKC would flatten and a reader would not: 2 with a small 2 above it is not 22."""
_STOPS = ".,;:?!"


@dataclass(frozen=True, slots=True)
class Prose:
    """A question taken apart: what it says, and with how much ado."""

    core: tuple[str, ...]
    """The words that carry its meaning, in order, with the stops between them: equal in texts that match."""
    ado: tuple[str, ...]
    """What was left out of it, sorted."""

    @property
    def words(self) -> int:
        """Return how many words the core has."""
        return sum(1 for token in self.core if token not in _STOPS)


def read_prose(text: str) -> Prose | None:
    """Take a text apart; None: it is no plain prose, and nothing but the very same text is like it."""
    if len(text) > CHARS_MAX:
        return None
    plain = _plain(text.strip())
    if plain is None:
        return None
    tokens = _tokens(plain)
    core, ado = _without_ado(tokens)
    prose = Prose(tuple(core), tuple(sorted(ado)))
    return prose if prose.words >= 2 else None


def likeness(words: int, ado: tuple[str, ...], other: tuple[str, ...]) -> float:
    """Return how alike two texts of an equal core are: shared words over all words, as multisets (Jaccard).

    Args:
        words: of the core.
        ado: of the one.
        other: of the other.
    """
    one, two = Counter(ado), Counter(other)
    return (words + (one & two).total()) / (words + (one | two).total())


def _plain(text: str) -> str | None:
    """Return the text in one form for each character; None where a sign in it may carry meaning."""
    if any(unicodedata.decomposition(c).startswith(_MEANINGFUL_FORMS) for c in text if not c.isascii()):
        return None
    text = unicodedata.normalize("NFKC", text.translate(_QUOTES))
    plain = all(c in _SIGNS or c.isalnum() or unicodedata.category(c).startswith("M") for c in text)
    return text if plain else None


def _tokens(text: str) -> list[str]:
    """Return words and the stops between them."""
    shouted = text.isupper()
    tokens: list[str] = []
    for raw in text.split():
        word, stop = _word_and_stop(raw)
        if word:
            tokens += _spelled(_folded(word, shouted=shouted))
        if stop:
            tokens.append(stop)
    return tokens


def _word_and_stop(raw: str) -> tuple[str, str]:
    """Part a word from the quotes around it and the stop behind it.

    What has a digit, a sign or a single letter keeps all but a plain stop: 5! and 5" and :5 mean something,
    while 5, and 5. and 5? do not mean more than 5.
    """
    bare = raw.strip('"')
    head = bare.rstrip(_STOPS)
    word = head.strip('"')
    word = word[1:-1] if len(word) > 2 and word[0] == word[-1] == "'" else word
    if len(word) > 1 and word.replace("'", "").replace("-", "").isalpha():
        stops = bare[len(head) :]
        return word, "?" if "?" in stops else stops[:1]
    number = raw.rstrip(_STOPS)
    stops = raw[len(number) :]
    return (number, stops) if number and stops in (".", ",", "?") else (raw, "")


def _folded(word: str, *, shouted: bool) -> str:
    folded = word.casefold()
    if folded in TWO_FACED:
        return word
    # Capitals throughout are a name (US, IT), unless everything is written so; so is a letter (vitamin C).
    named = word.isupper() and not shouted and word not in ("I", "A")
    return word if named else folded


def _spelled(word: str) -> tuple[str, ...]:
    return CONTRACTIONS.get(word) or (SPELLINGS.get(word, word),)


def _without_ado(tokens: list[str]) -> tuple[list[str], list[str]]:
    rest, ado, ordered = list(tokens), list[str](), False
    while (length := _leading_ado(rest)) or (rest and rest[0] in ",;:.!" and ado):
        ordered = ordered or tuple(rest[:length]) in BEFORE_AN_ORDER
        ado += [token for token in rest[:length] if token not in _STOPS]
        rest = rest[max(length, 1) :]
    _end(rest, ordered=ordered)
    while length := _trailing_ado(rest):
        ado += rest[len(rest) - length :]
        del rest[len(rest) - length :]
        _end(rest, ordered=ordered)
    return rest, ado


def _end(tokens: list[str], *, ordered: bool) -> None:
    """Drop stops at the end; a question mark only behind a question or an order, where it adds nothing."""
    while tokens and (tokens[-1] in ",;:.!" or (tokens[-1] == "?" and (ordered or tokens[0] in ASKING))):
        tokens.pop()


def _leading_ado(tokens: list[str]) -> int:
    if not tokens:
        return 0
    if tokens[0] in PLEASE:
        return 1
    for phrase in GREETINGS:
        if _begins(tokens, phrase) and len(tokens) > len(phrase):
            return len(phrase)
    for phrase in BEFORE_A_QUESTION:
        if _begins(tokens, phrase) and len(tokens) > len(phrase) and tokens[len(phrase)] in TELLING:
            return len(phrase)
    for phrase in BEFORE_AN_ORDER:
        after = len(phrase)
        if _begins(tokens, phrase) and len(tokens) > after + 1:
            polite = tokens[after] in PLEASE
            if tokens[after + polite] in DOING:
                return after
    return 0


def _trailing_ado(tokens: list[str]) -> int:
    for phrase in THANKS:
        if len(tokens) > len(phrase) and tuple(tokens[-len(phrase) :]) == phrase:
            return len(phrase)
    return 0


def _begins(tokens: list[str], phrase: tuple[str, ...]) -> bool:
    return tuple(tokens[: len(phrase)]) == phrase
