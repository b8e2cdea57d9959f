"""In which order the lines of batches are given out."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from trivet.execution.batch_agenda import SHORT_PAUSE_S, Agenda, Errand

NOTHING: dict[str, str] = {}


def at_once(_deployment: str, _batch_id: str) -> float:
    """Say that everything may run now."""
    return 0.0


def run_all(agenda: Agenda, *, at_once_max: int, resident: dict[str, str]) -> list[Errand]:
    """Run what the agenda gives out, so many lines at once, each ending in the order of its beginning."""
    running: list[Errand] = []
    order: list[Errand] = []
    while True:
        errand = agenda.next(at_once, resident, 0.0) if len(running) < at_once_max else None
        if errand is not None:
            running.append(errand)
            order.append(errand)
        elif running:
            agenda.ended(running.pop(0))
        else:
            return order


def changes(order: Sequence[Errand], group: str, resident: str) -> int:
    """Return how often a group changes its model when lines run in this order."""
    here, count = resident, 0
    for errand in order:
        if errand.group == group and errand.deployment != here:
            here, count = errand.deployment, count + 1
    return count


@given(
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.sampled_from("abc"), st.sampled_from(("gpu", None))), max_size=60
    ),
    st.integers(1, 5),
    st.sampled_from("abc"),
)
def test_a_group_changes_at_most_once_per_model(
    lines: list[tuple[str, str, str | None]], at_once_max: int, resident: str
) -> None:
    """However lines of several batches are mixed, each model has one turn, the one in memory the first."""
    agenda = Agenda()
    for number, (batch, model, group) in enumerate(lines):
        agenda.add(batch, number, f"{model}-{group}", group)
    order = run_all(agenda, at_once_max=at_once_max, resident={"gpu": f"{resident}-gpu"})
    assert sorted(errand.number for errand in order) == list(range(len(lines)))
    models = {f"{model}-gpu" for _, model, group in lines if group}
    assert changes(order, "gpu", f"{resident}-gpu") == len(models - {f"{resident}-gpu"})
    assert agenda.waiting() == 0


def test_no_line_of_another_model_while_one_runs() -> None:
    """A turn ends once its last line has ended, not once it was given out."""
    agenda = Agenda()
    agenda.add("x", 1, "a", "gpu")
    agenda.add("x", 2, "b", "gpu")
    first = agenda.next(at_once, {"gpu": "b"}, 0.0)
    assert first == Errand("x", 2, "b", "gpu")
    assert agenda.next(at_once, {"gpu": "b"}, 0.0) is None
    agenda.ended(first)
    assert agenda.next(at_once, {"gpu": "b"}, 0.0) == Errand("x", 1, "a", "gpu")


def test_what_comes_during_a_turn_waits_for_the_next() -> None:
    """A model whose lines never end does not keep the others' from theirs."""
    agenda = Agenda()
    agenda.add("x", 1, "a", "gpu")
    agenda.add("x", 2, "b", "gpu")
    got = []
    for number in range(3, 9):
        errand = agenda.next(at_once, {"gpu": "a"}, 0.0)
        assert errand is not None
        got.append(errand.deployment)
        agenda.add("x", number, "a", "gpu")
        agenda.ended(errand)
    assert got[:3] == ["a", "b", "a"]


def test_batches_take_turns_within_a_deployment() -> None:
    """A short batch behind a long one is through soon."""
    agenda = Agenda()
    for number in range(100):
        agenda.add("long", number, "a", None)
    agenda.add("short", 1, "a", None)
    order = run_all(agenda, at_once_max=1, resident=NOTHING)
    assert "short" in [errand.batch_id for errand in order[:3]]


def test_a_short_pause_ends_no_turn() -> None:
    """Where a turn's lines wait for seconds the group stays; where for long, another has its turn."""
    agenda = Agenda()
    for number in (1, 2):
        agenda.add("x", number, "a", "gpu")
    agenda.add("x", 3, "b", "gpu")
    first = agenda.next(at_once, {"gpu": "a"}, 0.0)
    assert first is not None
    agenda.ended(first)

    def paused(deployment: str, _batch_id: str) -> float:
        return due_s if deployment == "a" else 0.0

    due_s = SHORT_PAUSE_S / 2
    assert agenda.next(paused, {"gpu": "a"}, 0.0) is None
    assert agenda.look_again_s == due_s
    due_s = 100.0
    assert agenda.next(paused, {"gpu": "a"}, 0.0) == Errand("x", 3, "b", "gpu")


def test_a_dropped_batch_is_forgotten() -> None:
    """Its lines are given out no more; others' are."""
    agenda = Agenda()
    agenda.add("x", 1, "a", "gpu")
    agenda.add("y", 1, "a", "gpu")
    agenda.drop("x")
    assert [errand.batch_id for errand in run_all(agenda, at_once_max=2, resident=NOTHING)] == ["y"]
