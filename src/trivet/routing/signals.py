"""The word tables of the complexity estimator: which words point to demanding work, and how strongly.

They are hand-written priors, not measurements, and they name kinds of work, never subjects of study:
a router must not know the benchmark it is measured on.
"""

from collections.abc import Iterable

KEYWORD_STEMS: dict[str, float] = {
    # Weighing and explaining: the verbs that open a demanding task.
    "analy": 0.30,
    "architect": 0.35,
    "assess": 0.20,
    "compar": 0.20,
    "critique": 0.25,
    "design": 0.20,
    "diagnos": 0.25,
    "evaluat": 0.25,
    "implication": 0.25,
    "infer": 0.10,
    "investigat": 0.25,
    "justif": 0.20,
    "reason": 0.10,
    "strateg": 0.25,
    "synthes": 0.25,
    "tradeoff": 0.30,
    # Exact reasoning.
    "algorithm": 0.25,
    "deriv": 0.20,
    "formal": 0.15,
    "hypothes": 0.20,
    "optimal": 0.20,
    "optimi": 0.25,
    "proof": 0.30,
    "prove": 0.30,
    "theorem": 0.30,
    # Building and repairing systems.
    "concurren": 0.30,
    "debug": 0.25,
    "deadlock": 0.30,
    "distribut": 0.20,
    "implement": 0.20,
    "infrastructur": 0.20,
    "integrat": 0.15,
    "migrat": 0.20,
    "performan": 0.15,
    "refactor": 0.30,
    "scalab": 0.30,
    # Work whose mistakes are costly.
    "attack": 0.20,
    "audit": 0.25,
    "authenticat": 0.25,
    "authoriz": 0.20,
    "complian": 0.30,
    "complex": 0.20,
    "comprehensiv": 0.20,
    "critical": 0.20,
    "cryptograph": 0.30,
    "encrypt": 0.25,
    "exploit": 0.20,
    "forensic": 0.25,
    "incident": 0.20,
    "mitigat": 0.25,
    "regulat": 0.20,
    "risk": 0.20,
    "secur": 0.35,
    "threat": 0.30,
    "vulnerab": 0.35,
}
"""Beginnings of words, lower case, at least four letters, with the weight of one occurrence or more.

A stem stands for all words that begin with it (`analy`: analyze, analyse, analysis, analytical). The
keyword factor is the sum over the distinct stems found, at most 1: three or four signals saturate it.
"""

CAPABILITY_CRITICALITY: dict[str, float] = {
    # Safety-critical: a wrong answer does harm that nobody notices in time.
    "compliance": 1.0,
    "cryptography": 1.0,
    "forensics": 1.0,
    "fraud": 1.0,
    "incident": 1.0,
    "legal": 1.0,
    "medical": 1.0,
    "privacy": 1.0,
    "safety": 1.0,
    "security": 1.0,
    "threat": 1.0,
    "vulnerability": 1.0,
    "audit": 0.9,
    "regulatory": 0.9,
    "risk": 0.9,
    # Far-reaching: a wrong answer is expensive to take back.
    "architecture": 0.8,
    "deployment": 0.8,
    "finance": 0.8,
    "financial": 0.8,
    "infrastructure": 0.8,
    "migration": 0.8,
    "production": 0.8,
    "thinking": 0.8,
    "design": 0.7,
    "planning": 0.7,
    "reasoning": 0.7,
    "research": 0.7,
    # Skilled work that is checked soon after.
    "analysis": 0.5,
    "code": 0.5,
    "coding": 0.5,
    "data": 0.4,
    "debugging": 0.6,
    "math": 0.5,
    "review": 0.5,
    "sql": 0.4,
    # What a small model does well.
    "writing": 0.3,
    "summarization": 0.2,
    "translation": 0.2,
    "search": 0.2,
    "chat": 0.1,
    "classification": 0.1,
    "detection": 0.1,
    "extraction": 0.1,
    "faq": 0.1,
    "formatting": 0.1,
    "greeting": 0.1,
    "intent": 0.1,
    "pii": 0.1,
}
"""Criticality, 0 to 1, of the words that a capability's name is made of (`security_analysis`: security)."""

UNKNOWN_CAPABILITY = 0.3
"""Criticality of a capability whose name holds no known word: somewhat more than a plain chat."""

_KEY_CHARS = 4


def stem_index(stems: dict[str, float]) -> dict[str, tuple[tuple[str, float], ...]]:
    """Return the stems by their first four letters, so that a word meets only the few it may begin with."""
    index: dict[str, tuple[tuple[str, float], ...]] = {}
    for stem, weight in stems.items():
        key = stem[:_KEY_CHARS]
        index[key] = (*index.get(key, ()), (stem, weight))
    return index


def keyword_weight(words: Iterable[str], index: dict[str, tuple[tuple[str, float], ...]]) -> float:
    """Return the sum of the weights of the distinct stems that `words` (lower case) begin with, at most 1."""
    # Few words begin like any stem: most are done with after one look.
    near = [word for word in words if word[:_KEY_CHARS] in index]
    if not near:
        return 0.0
    found = {
        stem: weight for word in near for stem, weight in index[word[:_KEY_CHARS]] if word.startswith(stem)
    }
    return min(1.0, sum(found.values(), 0.0))


def criticality(capability: str) -> float:
    """Return the criticality of one capability by name: that of its most critical known word."""
    words = capability.lower().replace("-", "_").replace(" ", "_").replace(".", "_").split("_")
    known = [CAPABILITY_CRITICALITY[word] for word in words if word in CAPABILITY_CRITICALITY]
    return max(known, default=UNKNOWN_CAPABILITY)
