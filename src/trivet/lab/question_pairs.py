"""Pairs of questions by our own hand: worded differently and the same, worded alike and not the same."""

from trivet.cache.likeness import likeness, read_prose

Pair = tuple[str, str]

_ALIKE = """
What is the capital of France? | what is the capital of france
What is the capital of France? | What's the capital of France?
What is the capital of France? | Hi, what is the capital of France?
What is the capital of France? | What is the capital of France? Thanks!
What is the capital of France? | What is the capital of France, please?
What is the capital of France? | Please tell me what is the capital of France.
What is the capital of France? |   What   is the capital  of France ?
How does a heat pump work? | how does a heat pump work
How does a heat pump work? | Hello, how does a heat pump work?
How does a heat pump work? | Do you know how does a heat pump work?
Explain how TCP slow start works. | Can you explain how TCP slow start works?
Explain how TCP slow start works. | Could you please explain how TCP slow start works?
Explain how TCP slow start works. | Please explain how TCP slow start works
Explain how TCP slow start works. | explain how TCP slow start works, please
Explain how TCP slow start works. | Good morning. Explain how TCP slow start works!
Summarize the causes of the First World War. | Summarise the causes of the First World War.
Summarize the causes of the First World War. | Could you summarize the causes of the first world war? Thanks.
Describe the colour of the sky at noon. | Describe the color of the sky at noon
List the planets of the solar system in order. | Please list the planets of the solar system in order
List the planets of the solar system in order. | can you list the planets of the solar system in order, please
Why isn't my order shipped yet? | Why is not my order shipped yet?
I can't log in to my account. | I cannot log in to my account
I can't log in to my account. | Hi! I can not log in to my account.
How do I reset my password? | how do i reset my password??
How do I reset my password? | Hey there, how do I reset my password? Thanks a lot!
Translate good night into Spanish. | Would you translate good night into Spanish?
Who wrote the novel Middlemarch? | who wrote the novel middlemarch
Who wrote the novel Middlemarch? | Who wrote the novel "Middlemarch"?
What does the error code 404 mean? | what does the error code 404 mean
Give three reasons for eating vegetables. | Could you give three reasons for eating vegetables?
"""
_UNLIKE = """
Raise the limit to 80 users. | Raise the limit to 90 users.
What is 12 percent of 340? | What is 12 percent of 430?
What is 12 percent of 340? | What is 21 percent of 340?
Convert 5 miles to kilometers. | Convert 5 kilometers to miles.
Who won the race in 1998? | Who won the race in 1989?
What happens at 1.5 bar? | What happens at 15 bar?
What happens at -5 degrees? | What happens at 5 degrees?
Is 3 - 2 the answer? | Is 3 2 the answer?
What is 5! in decimal? | What is 5 in decimal?
What does version 2.1 change? | What does version 2.10 change?
Sum up the first ten primes. | Sum up the first two primes.
Wake me at 6:30 tomorrow. | Wake me at 6 30 tomorrow.
What is 10 to the power 3? | What is 3 to the power 10?
What is 2\u00b2 plus one? | What is 22 plus one?
What is 5\u00bd plus one? | What is 51 2 plus one?
Costs it 20% or more? | Costs it 20 or more?
Is the budget $500 for us? | Is the budget \u20ac500 for us?
Is this drug safe in pregnancy? | Is this drug not safe in pregnancy?
Can I mix bleach and ammonia? | Can't I mix bleach and ammonia?
Which users have access? | Which users have no access?
Explain why the sky is blue. | Explain why the sky isn't blue.
List employees who are on leave. | List employees who are never on leave.
No, apples are red. | No apples are red.
Find files with errors. | Find files without errors.
Is it possible to cancel? | Is it impossible to cancel?
Is this contract legal? | Is this contract illegal?
Should the valve be open? | Should the valve be closed?
Increase the timeout of the job. | Decrease the timeout of the job.
How do I enable logging? | How do I disable logging?
What are the advantages of nuclear power? | What are the disadvantages of nuclear power?
Import the table into the database. | Export the table from the database.
How do I encrypt a file? | How do I decrypt a file?
Describe the inflow of the tank. | Describe the outflow of the tank.
What happens before the meeting? | What happens after the meeting?
Who is above me in the chart? | Who is below me in the chart?
What is the minimum wage here? | What is the maximum wage here?
Sort the list in ascending order. | Sort the list in descending order.
Delete all rows but the last. | Delete all rows and the last.
Add a user to the group. | Remove a user from the group.
Who can buy this share? | Who can sell this share?
What is the capital of France? | What is the capital of Germany?
What is the capital of Austria? | What is the capital of Australia?
Tell me about the Paris office. | Tell me about the London office.
Who is the CEO of Acme? | Who is the CTO of Acme?
Did Anna pay Bob? | Did Bob pay Anna?
The dog bites the man. | The man bites the dog.
Flights from Rome to Oslo today | Flights from Oslo to Rome today
Is John taller than Mary? | Is Mary taller than John?
Translate this to Dutch: tree | Translate this to Danish: tree
Translate good night into Spanish. | Translate good night into Swedish.
What does the US economy need? | What does the us economy need?
Who pays for IT? | Who pays for it?
Help for AIDS patients | Help for aids patients
How do I polish furniture? | How do I Polish furniture?
What is a turkey like? | What is a Turkey like?
Does rust hurt my car? | Does Rust hurt my car?
Is vitamin C good for me? | Is vitamin D good for me?
Is hepatitis A common? | Is hepatitis B common?
Write plan A for us. | Write plan B for us.
What did Marie Curie discover? | What did Pierre Curie discover?
Summarize the first chapter. | Summarize the last chapter.
Summarize the second chapter. | Summarize the third chapter.
A few users complained. | Few users complained.
There is a little hope left. | There is little hope left.
What can I do with an old bike? | What can I do with a bike?
How long may I stay in Spain? | How long must I stay in Spain?
Must I sign the form? | May I sign the form?
Will prices rise this year? | Did prices rise this year?
Will prices rise this year? | Will prices rise next year?
What is due today? | What is due tomorrow?
Who was invited? | Who is invited?
Which of these is better? | Which of these is worse?
Why is my cat so happy? | Why is my dog so happy?
What is the boiling point of water? | What is the freezing point of water?
What is the boiling point of water? | What is the melting point of water?
Let's eat, grandma. | Let's eat grandma.
You are coming. | You are coming?
Write a poem about love. | Write a poem about hate.
Write a poem about love. | Write a story about love.
Can you swim in the Rhine? | Swim in the Rhine.
Can you speak French? | Speak French.
How do I please my boss? | How do I my boss?
She spoke kindly to me. | She spoke to me.
Give me a short answer on tides. | Give me a long answer on tides.
Explain recursion to a child. | Explain recursion to an expert.
Explain the C language. | Explain the C++ language.
Explain the C language. | Explain the C# language.
What does x > y mean? | What does x < y mean?
What does a + b give? | What does a - b give?
What does f(a) return? | What does f a return?
Is this a 5" screen or not? | Is this a 5 screen or not?
Is 2 * (3 + 4) right? | Is 2 * 3 + 4 right?
Run the tests in a/b. | Run the tests in a b.
What does user_id hold? | What does user id hold?
Rename foo.py for me. | Rename foo py for me.
What is node.js used for? | What is node js used for?
Which wine goes with fish? | Which wine goes with meat?
Is the principal here? | Is the principle here?
How do I cross the desert? | How do I cross the dessert?
Is it a moral question? | Is it a morale question?
What affects the price? | What effects the price?
When is the bank open? | When is the bank opened?
Do I need a visa? | Do I need a Visa?
Which president signed it? | Which precedent signed it?
Why did the server stop? | Why did the server start?
Approve the request of Ana. | Reject the request of Ana.
Is the patient allergic to penicillin? | Is the patient allergic to aspirin?
Give 5 mg of the drug. | Give 5 g of the drug.
Set the thermostat to 20 C. | Set the thermostat to 20 F.
Send 100 USD to Ana. | Send 100 EUR to Ana.
Show orders from 2024-01-02. | Show orders from 2024-02-01.
Who beats whom in chess? | Whom beats who in chess?
What is true of all birds? | What is true of some birds?
Always restart the service. | Never restart the service.
Only admins may log in. | Admins only may not log in.
"""


def alike_pairs() -> list[Pair]:
    """Return pairs that say the same."""
    return _pairs(_ALIKE)


def unlike_pairs() -> list[Pair]:
    """Return pairs that say something else, most of them in nearly the same letters."""
    return _pairs(_UNLIKE)


def is_match(one: str, other: str, threshold: float) -> bool:
    """Tell whether the cache would answer the one with the answer to the other."""
    if one == other:
        return True
    first, second = read_prose(one), read_prose(other)
    if first is None or second is None or first.core != second.core:
        return False
    return likeness(first.words, first.ado, second.ado) >= threshold


def trigram_likeness(one: str, other: str) -> float:
    """Return the Jaccard likeness of the texts' character trigrams, case and spaces folded, to compare."""
    first, second = _trigrams(one), _trigrams(other)
    return len(first & second) / len(first | second)


def likeness_table(threshold: float) -> dict[str, object]:
    """Return how many pairs of each kind match here, and by trigrams at several thresholds."""
    alike, unlike = alike_pairs(), unlike_pairs()
    return {
        "alike": len(alike),
        "unlike": len(unlike),
        "hits": sum(is_match(*pair, threshold) for pair in alike),
        "false_hits": sum(is_match(*pair, threshold) for pair in unlike),
        "trigrams": [
            {
                "threshold": at,
                "hits": sum(trigram_likeness(*pair) >= at for pair in alike),
                "false_hits": sum(trigram_likeness(*pair) >= at for pair in unlike),
            }
            for at in (0.5, 0.6, 0.7, 0.8, 0.9)
        ],
    }


def _pairs(text: str) -> list[Pair]:
    lines = [line.partition(" | ") for line in text.strip().splitlines()]
    return [(one, other) for one, _, other in lines]


def _trigrams(text: str) -> frozenset[str]:
    folded = " ".join(text.casefold().split())
    return frozenset(folded[at : at + 3] for at in range(len(folded) - 2))
