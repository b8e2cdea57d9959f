"""API keys: what a caller may learn, and what nobody may."""

import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from trivet.access import KeyRecord, Keyring
from trivet.access.key_text import key_id_of, new_key, new_key_id
from trivet.config.settings import AccessSettings
from trivet.domain.clock import ManualClock
from trivet.domain.errors import ConfigError, KeyInvalid, KeyMissing, NotFound, RequestMalformed
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope
from trivet.storage import Database
from trivet.storage.instants import ns_of
from trivet.storage.schema import api_keys, key_uses

ACME = Scope("acme.search")


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still."""
    return ManualClock()


@pytest.fixture(params=["memory", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Give a store of each kind."""
    with (
        request.getfixturevalue("shared_store").emptied()
        if request.param == "postgres"
        else Database.open(None)
    ) as opened:
        yield opened


@pytest.fixture
def keyring(database: Database, clock: ManualClock) -> Keyring:
    """Give an empty keyring."""
    return Keyring(database, AccessSettings(), None, clock)


def test_a_key_stands_for_its_principal(keyring: Keyring) -> None:
    """A key that was made authenticates as its scope, role, tiers and models."""
    text, record = keyring.create(ACME, tiers=("light",), models=("m",), label="ci")
    expected = Principal(
        key_id=record.key_id,
        scope=ACME,
        role="tenant",
        tiers=frozenset({"light"}),
        models=frozenset({"m"}),
    )
    assert keyring.authenticate(text) == expected


@pytest.mark.parametrize("text", [None, ""])
def test_no_key_is_missing(keyring: Keyring, text: str | None) -> None:
    """Without a key the caller is told how to send one."""
    with pytest.raises(KeyMissing) as refused:
        keyring.authenticate(text)
    assert "Bearer" in str(refused.value)


def corrupted(text: str) -> list[str]:
    """Return a key's text with every kind of damage."""
    return [
        "nonsense",
        text[:-1],
        f"{text}x",
        f" {text}",
        f"{text}\n",
        text.upper(),
        text.replace("tvt_", "sk-", 1),
        text[:20] + ("A" if text[20] != "A" else "B") + text[21:],
        f"tvt_{'0' * 8}_{'é' * 43}{'0' * 6}",
        "\ud800",
    ]


def test_damaged_keys_are_invalid_and_never_repeated(keyring: Keyring) -> None:
    """A damaged key is refused as such, and no part of it appears in the refusal."""
    text, _ = keyring.create(ACME)
    for damaged in corrupted(text):
        with pytest.raises(KeyInvalid) as refused:
            keyring.authenticate(damaged)
        assert damaged not in str(refused.value)


def test_unknown_and_forged_keys_are_the_same(keyring: Keyring) -> None:
    """A well-formed key of an unknown id and one with a known id but another secret get the same words."""
    _, record = keyring.create(ACME)
    messages = set()
    for key_id in (record.key_id, new_key_id()):
        forged = new_key(key_id)
        with pytest.raises(KeyInvalid) as refused:
            keyring.authenticate(forged)
        messages.add(str(refused.value))
        assert forged not in str(refused.value)
    assert len(messages) == 1


def test_a_revoked_key_is_invalid(keyring: Keyring) -> None:
    """Revoking counts at once, twice is once, and other keys live on."""
    text, record = keyring.create(ACME)
    other, _ = keyring.create(ACME)
    keyring.revoke(record.key_id)
    keyring.revoke(record.key_id)
    with pytest.raises(KeyInvalid, match="revoked"):
        keyring.authenticate(text)
    assert keyring.authenticate(other).scope == ACME


def test_a_key_that_comes_again_is_judged_as_it_stands_then(keyring: Keyring, database: Database) -> None:
    """Being known from before saves work and nothing else: changes, a stranger's digest and an end count."""
    text, record = keyring.create(ACME)
    assert keyring.authenticate(text) == keyring.authenticate(text)
    keyring.change(record.key_id, priority="batch")
    assert keyring.authenticate(text).priority == "batch"
    spoil = "UPDATE api_keys SET digest = 'another'"
    database.write(lambda connection: connection.execute(spoil)).result()
    keyring.refresh()
    with pytest.raises(KeyInvalid):
        keyring.authenticate(text)


def test_revoking_nobody_is_not_found(keyring: Keyring) -> None:
    """An unknown key id cannot be revoked."""
    with pytest.raises(NotFound):
        keyring.revoke("00000000")


def test_a_key_expires(keyring: Keyring, clock: ManualClock) -> None:
    """A key works until the instant of its expiry, and no longer."""
    text, _ = keyring.create(ACME, expires_at=clock.now() + timedelta(seconds=10))
    clock.advance(9)
    assert keyring.authenticate(text).scope == ACME
    clock.advance(1)
    with pytest.raises(KeyInvalid, match="expired"):
        keyring.authenticate(text)


def test_senseless_keys_are_not_made(keyring: Keyring) -> None:
    """An unknown role or an expiry without a time zone is refused, and nothing is stored."""
    with pytest.raises(RequestMalformed):
        keyring.create(ACME, role="emperor")
    with pytest.raises(RequestMalformed):
        keyring.create(ACME, expires_at=datetime(2030, 1, 1))  # noqa: DTZ001 - the mistake under test
    assert keyring.is_empty()


def test_records_show_no_secret(keyring: Keyring, database: Database) -> None:
    """Neither the record, its JSON, its repr nor the store contains the key or its secret part."""
    text, record = keyring.create(ACME, label="ci")
    secret = text.split("_", 2)[2]
    rows = database.read(lambda connection: connection.execute(select(api_keys)).all())
    for shown in (repr(record), str(record.as_json()), str(rows)):
        assert secret not in shown
        assert text not in shown
    assert record.digest not in repr(record)
    assert "digest" not in record.as_json()


def test_json_of_a_record(keyring: Keyring, clock: ManualClock) -> None:
    """A record's JSON names what the key may do and its dates."""
    _, record = keyring.create(ACME, tiers=("light", "heavy"), label="ci", expires_at=clock.now())
    expected = {
        "key_id": record.key_id,
        "scope": "acme.search",
        "role": "tenant",
        "priority": "interactive",
        "tiers": ["light", "heavy"],
        "models": [],
        "label": "ci",
        "created_at": "2026-01-01T00:00:00+00:00",
        "expires_at": "2026-01-01T00:00:00+00:00",
        "revoked_at": None,
        "replaces": None,
        "last_used_at": None,
    }
    assert expected == record.as_json()


def test_keys_of_another_replica_become_known(database: Database, clock: ManualClock) -> None:
    """Who reads the keys anew knows what was made and revoked elsewhere; another pepper is found out."""
    access = AccessSettings(pepper=SecretStr("shared by all replicas"))
    here, there = (Keyring(database, access, None, clock) for _ in range(2))
    text, record = here.create(ACME)
    with pytest.raises(KeyInvalid):
        there.authenticate(text)
    there.refresh()
    assert there.authenticate(text).scope == ACME
    here.revoke(record.key_id)
    there.refresh()
    with pytest.raises(KeyInvalid, match="revoked"):
        there.authenticate(text)


def test_keys_survive_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    """Keys, revocations and the pepper made beside the store are found again by the next start."""
    path = tmp_path / "trivet.db"
    with Database.open(path) as database:
        keyring = Keyring(database, AccessSettings(), path, clock)
        text, first = keyring.create(Scope("admin"), role="admin")
        clock.advance(1)
        gone, second = keyring.create(ACME)
        keyring.revoke(second.key_id)
        before = keyring.records()
    assert stat.S_IMODE((tmp_path / "pepper").stat().st_mode) == 0o600
    with Database.open(path) as database:
        again = Keyring(database, AccessSettings(), path, clock)
        after: list[KeyRecord] = again.records()
        assert again.authenticate(text).is_admin
        with pytest.raises(KeyInvalid):
            again.authenticate(gone)
    assert [record.key_id for record in after] == [first.key_id, second.key_id]
    assert before == after


def test_another_pepper_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    """With keys in the store, another pepper is an error at the start; without keys it is taken."""
    path = tmp_path / "trivet.db"
    with Database.open(path) as database:
        Keyring(database, AccessSettings(pepper=SecretStr("x" * 32)), path, clock)
        keyring = Keyring(database, AccessSettings(pepper=SecretStr("y" * 32)), path, clock)
        text, _ = keyring.create(ACME)
        with pytest.raises(ConfigError, match="pepper"):
            Keyring(database, AccessSettings(), path, clock)
        same = Keyring(database, AccessSettings(pepper=SecretStr("y" * 32)), path, clock)
        assert same.authenticate(text).scope == ACME


def test_a_pepper_open_to_others_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    """A pepper file that others may read is refused with what to do."""
    path = tmp_path / "trivet.db"
    with Database.open(path) as database:
        Keyring(database, AccessSettings(), path, clock)
        (tmp_path / "pepper").chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600"):
            Keyring(database, AccessSettings(), path, clock)


def test_a_short_pepper_is_refused(database: Database, clock: ManualClock) -> None:
    """A pepper that could be guessed is refused, and not repeated."""
    with pytest.raises(ConfigError) as refused:
        Keyring(database, AccessSettings(pepper=SecretStr("hunter2")), None, clock)
    assert "hunter2" not in str(refused.value)


def test_key_texts_differ_and_carry_their_id() -> None:
    """Every text is new, well-formed, and gives its id back."""
    texts = {new_key("0123abcd") for _ in range(100)}
    assert len(texts) == 100
    assert {key_id_of(text) for text in texts} == {"0123abcd"}
    assert {len(text) for text in texts} == {62}


def test_a_rotated_key_lives_on_for_the_overlap(keyring: Keyring, clock: ManualClock) -> None:
    """The successor may do what the old key may; both work until the overlap has passed."""
    old, first = keyring.create(ACME, role="tenant_admin", priority="critical", tiers=("light",), label="ci")
    new, second = keyring.rotate(first.key_id, overlap=timedelta(hours=1))
    assert (second.replaces, second.scope, second.tiers) == (first.key_id, ACME, ("light",))
    same = (second.role, second.priority, second.label)
    assert same == ("tenant_admin", "critical", "ci")
    assert keyring.authenticate(old).scope == keyring.authenticate(new).scope
    clock.advance(3601)
    with pytest.raises(KeyInvalid, match="expired"):
        keyring.authenticate(old)
    assert keyring.authenticate(new).priority == "critical"


def test_a_key_is_rotated_once_and_while_it_lives(keyring: Keyring) -> None:
    """What has a successor, or has ended, is not rotated; an earlier end than the overlap's stays."""
    _, record = keyring.create(ACME)
    _, second = keyring.rotate(record.key_id, overlap=timedelta(0))
    with pytest.raises(RequestMalformed, match=second.key_id):
        keyring.rotate(record.key_id, overlap=timedelta(0))
    keyring.revoke(second.key_id)
    with pytest.raises(RequestMalformed, match="has ended"):
        keyring.rotate(second.key_id, overlap=timedelta(0))
    with pytest.raises(NotFound):
        keyring.rotate("00000000", overlap=timedelta(0))


def test_a_key_can_have_a_scope_of_its_own(keyring: Keyring) -> None:
    """Its scope lies right below the one it was made for, so it can have limits; a rotation keeps it."""
    text, record = keyring.create(ACME, own_scope=True)
    assert record.scope == f"acme.search.key-{record.key_id}"
    assert keyring.authenticate(text).scope == record.scope
    assert keyring.rotate(record.key_id, overlap=timedelta(0))[1].scope == record.scope


def test_a_keys_priority_can_be_changed(keyring: Keyring) -> None:
    """The next request has it; one that there is not is refused."""
    text, record = keyring.create(ACME, priority="batch")
    assert keyring.authenticate(text).priority == "batch"
    assert keyring.change(record.key_id, priority="critical", label="nightly").label == "nightly"
    assert keyring.authenticate(text).priority == "critical"
    with pytest.raises(RequestMalformed, match="interactive"):
        keyring.change(record.key_id, priority="urgent")


def test_uses_are_written_down_when_asked(database: Database, keyring: Keyring, clock: ManualClock) -> None:
    """A request writes nothing; what was used is kept at the next note, with the time of its last use."""
    text, record = keyring.create(ACME)
    clock.advance(5)
    keyring.authenticate(text)
    clock.advance(5)
    assert keyring.record(record.key_id).last_used_at is None
    keyring.note_uses()
    keyring.note_uses()
    assert keyring.record(record.key_id).last_used_at == clock.now() - timedelta(seconds=5)
    (kept,) = database.read(lambda connection: connection.execute(select(key_uses)).all())
    assert kept == (record.key_id, ns_of(clock.now() - timedelta(seconds=5)))
