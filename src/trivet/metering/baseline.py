"""The baseline model: device seconds on HEAVY as a function of prompt and output tokens.

    device_s = c0 + a * prompt_tokens + b * completion_tokens,   c0, a, b >= 0

Least squares under the sign constraints, from ten sums alone. With three features the optimum is found
exactly: it is the unconstrained optimum of one of the eight subsets of features, so all are solved, in
rational arithmetic, and the best of those without a negative coefficient is taken (Lawson and Hanson,
"Solving Least Squares Problems", 1974, ch. 23, describes the optimality conditions).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

MINIMUM_OBSERVATIONS = 8
_Z_95 = 1.6448536269514722
_Matrix = list[list[Fraction]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSums:
    """Sufficient sums over observations of (prompt p, completion c, device seconds d)."""

    n: int
    p: int
    c: int
    pp: int
    pc: int
    cc: int
    d: float
    pd: float
    cd: float
    dd: float

    @classmethod
    def of(cls, observations: Iterable[tuple[int, int, float]]) -> "FitSums":
        """Sum up (prompt tokens, completion tokens, device seconds)."""
        rows = list(observations)
        return cls(
            n=len(rows),
            p=sum(p for p, _, _ in rows),
            c=sum(c for _, c, _ in rows),
            pp=sum(p * p for p, _, _ in rows),
            pc=sum(p * c for p, c, _ in rows),
            cc=sum(c * c for _, c, _ in rows),
            d=math.fsum(d for _, _, d in rows),
            pd=math.fsum(p * d for p, _, d in rows),
            cd=math.fsum(c * d for _, c, d in rows),
            dd=math.fsum(d * d for _, _, d in rows),
        )


@dataclass(frozen=True, slots=True)
class BaselineModel:
    """A fitted model. Coefficients and covariance are in the order constant, prompt, completion."""

    coefficients_s: tuple[float, float, float]
    covariance: tuple[tuple[float, float, float], ...]
    """Of the coefficients, in s²; zero where the sign constraint holds a coefficient at 0."""
    residual_variance: float
    """Of one request's device seconds about the model, in s²."""
    degrees_of_freedom: int

    def seconds(self, requests: int, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the device seconds that so many requests with so many tokens take on HEAVY."""
        constant_s, prompt_s, completion_s = self.coefficients_s
        return constant_s * requests + prompt_s * prompt_tokens + completion_s * completion_tokens

    def margin_90(self, requests: int, prompt_tokens: int, completion_tokens: int) -> float:
        """Return half the width of the 90 % prediction interval of `seconds`.

        With x = (requests, prompt tokens, completion tokens) the variance is x' Cov x (the coefficients'
        uncertainty) + requests * residual variance (what single requests scatter), and the factor is
        Student's t. Taken as given: independent requests of equal scatter, and the active constraints.
        """
        x = (requests, prompt_tokens, completion_tokens)
        variance = requests * self.residual_variance + sum(
            x[i] * self.covariance[i][j] * x[j] for i in range(3) for j in range(3)
        )
        return student_t_95(self.degrees_of_freedom) * math.sqrt(max(0.0, variance))


def fit_baseline(sums: FitSums) -> BaselineModel | None:
    """Fit the model; None below MINIMUM_OBSERVATIONS."""
    if sums.n < MINIMUM_OBSERVATIONS:
        return None
    gram = _exact([[sums.n, sums.p, sums.c], [sums.p, sums.pp, sums.pc], [sums.c, sums.pc, sums.cc]])
    moments = [Fraction(value) for value in (sums.d, sums.pd, sums.cd)]
    best: tuple[Fraction, tuple[int, ...], list[Fraction], _Matrix] = (Fraction(0), (), [], [])
    for size in (1, 2, 3):
        for chosen in combinations(range(3), size):
            # Collinear features add nothing that a smaller subset does not reach.
            inverse = _inverse([[gram[i][j] for j in chosen] for i in chosen])
            if inverse is None:
                continue
            solution = [
                sum((row[k] * moments[j] for k, j in enumerate(chosen)), Fraction(0)) for row in inverse
            ]
            explained = sum(
                (value * moments[j] for value, j in zip(solution, chosen, strict=True)), Fraction(0)
            )
            if min(solution) >= 0 and explained > best[0]:
                best = (explained, chosen, solution, inverse)
    explained, chosen, solution, inverse = best
    degrees = sums.n - len(chosen)
    # The sums of d are floating point, so a perfect fit may leave a residual just below zero.
    residual_variance = max(0.0, float(Fraction(sums.dd) - explained)) / degrees
    coefficients = [0.0, 0.0, 0.0]
    covariance = [[0.0, 0.0, 0.0] for _ in range(3)]
    for row, i in enumerate(chosen):
        coefficients[i] = float(solution[row])
        for column, j in enumerate(chosen):
            covariance[i][j] = float(inverse[row][column]) * residual_variance
    return BaselineModel(
        (coefficients[0], coefficients[1], coefficients[2]),
        tuple((row[0], row[1], row[2]) for row in covariance),
        residual_variance,
        degrees,
    )


def student_t_95(degrees_of_freedom: int) -> float:
    """Return the 95 % quantile of Student's t, by the Cornish-Fisher expansion about the normal.

    Four correction terms (Abramowitz and Stegun 26.7.5): within 0.1 % from 5 degrees of freedom on.
    """
    z, v = _Z_95, degrees_of_freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def _exact(rows: Sequence[Sequence[int]]) -> _Matrix:
    return [[Fraction(value) for value in row] for row in rows]


def _inverse(matrix: _Matrix) -> _Matrix | None:
    """Return the inverse of a small positive semi-definite matrix; None if it is singular."""
    size = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for pivot in range(size):
        # Symmetric elimination needs no exchange: a zero pivot means a singular matrix here.
        if rows[pivot][pivot] == 0:
            return None
        scale = rows[pivot][pivot]
        rows[pivot] = [value / scale for value in rows[pivot]]
        for other in range(size):
            if other != pivot and rows[other][pivot] != 0:
                factor = rows[other][pivot]
                rows[other] = [
                    value - factor * lead for value, lead in zip(rows[other], rows[pivot], strict=True)
                ]
    return [row[size:] for row in rows]
