"""Presence: what a worker may say of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.presence import MAX_CLIENTS, MAX_SITES, presence_in
from shared import codec
from shared.broker.port import Part
from shared.errors import MessageError
from shared.messages import Presence


def part(login="a", **changes):
    said = {
        "federation": "f",
        "site": "a",
        "worker": "w",
        "partitions": ["0"],
        "doing": "waiting",
        "answered": 0,
    }
    header = {**Presence(**said).to_header(), **changes}
    return replace(Part.single("presence", codec.encode(header)), user_id=login)


def test_a_presence_comes_through():
    assert presence_in(part(), (), attest=True).partitions == ["0"]
    assert presence_in(part(partitions=["0:2", "x"]), (), attest=True).partitions == ["0", "1", "2", "x"]
    assert presence_in(part(login="other"), (), attest=False).site == "a"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"site": "Not A Slug"}, "no name of a site"),
        ({"partitions": ["../../etc"]}, "no usable name"),
        ({"partitions": ["x" * 65]}, "no usable name"),
        ({"partitions": [f"0:{MAX_CLIENTS}"]}, "more than"),
        ({"partitions": ["b:a"]}, "no usable name"),
        ({"partitions": [1]}, "must be str"),
        ({"answered": "many"}, "must be int"),
    ],
)
def test_what_it_may_not_say(changes, reason):
    with pytest.raises(MessageError, match=reason):
        presence_in(part(**changes), (), attest=False)


def test_a_login_speaks_for_its_own_site_where_that_is_attested():
    with pytest.raises(MessageError, match="does not speak for site 'a'"):
        presence_in(part(login="b"), (), attest=True)


def test_sites_are_bounded_but_known_ones_go_on():
    known = {f"s{n}" for n in range(MAX_SITES)}
    with pytest.raises(MessageError, match="sites already"):
        presence_in(part(), known, attest=False)
    assert presence_in(part(), {*known, "a"}, attest=False).site == "a"
