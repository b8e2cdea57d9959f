"""Values are compared and hashed by what they hold."""

from dataclasses import replace

from trivet.domain.values import value


@value(kw_only=True)
class Place:
    """A place on a map."""

    name: str
    height_m: int = 0


def test_values_are_what_they_hold() -> None:
    """Equal ones are one member of a set, and a changed copy is another."""
    place = Place(name="Brocken", height_m=1141)
    assert {place, Place(name="Brocken", height_m=1141), replace(place, height_m=0)} == {
        place,
        Place(name="Brocken"),
    }
    assert not hasattr(place, "__dict__")
