"""English words and phrases, by what they are to a question. Data for `likeness`."""

Phrase = tuple[str, ...]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(*texts: str) -> tuple[Phrase, ...]:
    return tuple(tuple(text.split()) for text in texts)


CONTRACTIONS: dict[str, Phrase] = {
    **{f"{word}'s": (word, "is") for word in _words("what who where when how that it there")},
    **{f"{word}'re": (word, "are") for word in _words("you we they what")},
    **{f"{word}'ll": (word, "will") for word in _words("i you we they it that")},
    **{f"{word}'ve": (word, "have") for word in _words("i you we they")},
    **{
        f"{word}n't": (word, "not")
        for word in _words("is are was were do does did has have had should would could must need")
    },
    "i'm": ("i", "am"),
    "can't": ("can", "not"),
    "cannot": ("can", "not"),
    "won't": ("will", "not"),
}
SPELLINGS = {
    "analyse": "analyze",
    "behaviour": "behavior",
    "catalogue": "catalog",
    "centre": "center",
    "colour": "color",
    "favourite": "favorite",
    "initialise": "initialize",
    "licence": "license",
    "neighbour": "neighbor",
    "normalise": "normalize",
    "optimise": "optimize",
    "organisation": "organization",
    "organise": "organize",
    "serialise": "serialize",
    "summarise": "summarize",
}
"""British to American."""
TWO_FACED = _words(
    """access amazon apple august bill black brown case chase china chrome delta edge excel express flask
    frank gap go grant green hive hope japan job king lima march mark may mercury mobile nice office oracle
    outlook polish python queen react reading rob ruby rust safari shell spark spring storm swift target
    teams turkey visa white windows word young"""
)
"""Words that mean another thing with a capital: their case counts."""
ASKING = _words(
    """what which who whom whose where when why how is are was were do does did can could will would should
    has have had may must shall"""
)
"""What begins with one of these is a question, with a question mark or without."""
TELLING = _words("what which who whom whose where when why how if whether")
"""What may follow on `tell me` so that it could stand alone."""
DOING = _words(
    """tell explain describe list give show summarize translate write define compare calculate name provide
    suggest outline"""
)
"""What may follow on `can you` so that it is an order, and no question about an ability."""
PLEASE = _words("please pls plz kindly")
GREETINGS = _phrases(
    "good morning",
    "good afternoon",
    "good evening",
    "hi there",
    "hello there",
    "hey there",
    "hi",
    "hello",
    "hey",
)
BEFORE_A_QUESTION = _phrases("i would like to know", "i want to know", "do you know", "tell me")
BEFORE_AN_ORDER = _phrases("can you", "could you", "would you", "will you")
THANKS = _phrases(
    "thank you very much",
    "thank you in advance",
    "thanks in advance",
    "thanks a lot",
    "thank you",
    "thanks",
    "please",
    "pls",
    "plz",
)
"""What may come at the end."""
