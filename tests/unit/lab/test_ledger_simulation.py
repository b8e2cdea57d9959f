"""Simulated worlds keep every promise, come again from their seed, and show faults that are planted."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog

from tests.counts import scaled
from tests.unit.budgets.test_model import ClampKeepsHold, DoubleSettle, PartialReserve, ReleaseOnExpiry
from trivet.budgets.sqlite_reserving import Reserving
from trivet.budgets.sqlite_settling import Settling
from trivet.domain.budgets import Hold, Reservation
from trivet.domain.errors import StoreError
from trivet.lab.ledger_simulation import World, simulate
from trivet.lab.ledger_worlds import live_through


class NeverClamps(Reserving):
    """Refuses what would fit in part: a false refusal."""

    def reserve(
        self, connection: sqlite3.Connection, hold: Hold, reservation_id: str, *, final: bool
    ) -> Reservation:
        """Hold all or nothing."""
        stubborn = replace(hold, min_output=hold.max_output)
        return super().reserve(connection, stubborn, reservation_id, final=final)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Let what goes wrong on purpose be no news."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


def test_worlds_keep_every_promise() -> None:
    """No overspend, no leak, no false refusal, books that are proven, whatever dies or stalls."""
    found = live_through(scaled(1_200), 1, requests_a_world=600)
    assert found["failing"] == []
    assert (found["overspend"], found["leaked_holds"], found["false_refusals"]) == (0, 0, 0)
    assert min(found[name] for name in ("granted", "clamped", "exhausted", "contended", "policy", "left")) > 0


def test_a_seed_is_a_world() -> None:
    """The same seed lives the same life, to the last event; another seed lives another one."""
    first, again, other = (simulate(World(requests=150, seed=seed)) for seed in (7, 7, 8))
    assert first == again
    assert first.digest != other.digest


@pytest.mark.parametrize(
    "fault", [PartialReserve, ClampKeepsHold, DoubleSettle, ReleaseOnExpiry, NeverClamps]
)
def test_planted_faults_are_found(fault: type[Reserving] | type[Settling]) -> None:
    """A ledger with a fault breaks a promise in one of a few worlds: the test of the test."""

    def keeps_its_promises(seed: int) -> bool:
        planted = World(
            requests=300,
            seed=seed,
            deaths=0.01,
            organisation_tokens=12_000,
            reserving=fault if issubclass(fault, Reserving) else Reserving,
            settling=fault if issubclass(fault, Settling) else Settling,
        )
        try:
            return simulate(planted).ok
        except StoreError:
            return False  # counters that should be there are not

    assert not all(keeps_its_promises(seed) for seed in range(1, 6))
