"""What workers say of themselves, checked: a name costs a queue at the broker and a place in the journal."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from shared import codec
from shared.broker.port import Part
from shared.errors import MessageError
from shared.messages import Presence
from shared.partitions import expand
from shared.topology import SLUG

#: A presence that would make more than these is passed over.
MAX_SITES = 2_000
MAX_CLIENTS = 20_000
PARTITION = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def presence_in(part: Part, sites: Collection[str], attest: bool) -> Presence:
    """The presence in a part, with its partitions one by one.

    `sites` are those that are known; with `attest` a login speaks for its own site only.

    Raises:
        MessageError: it is none, or says what it may not.
    """
    codec.check_part(part)
    presence = Presence.from_header(codec.decode(part.body)[0])
    site = presence.site
    if not SLUG.fullmatch(site):
        raise MessageError(f"{site[:64]!r} is no name of a site")
    if attest and part.user_id != site:
        raise MessageError(f"this login does not speak for site {site!r}")
    if site not in sites and len(sites) >= MAX_SITES:
        raise MessageError(f"there are {MAX_SITES} sites already")
    names = expand(presence.partitions, MAX_CLIENTS)
    for name in names:
        if not PARTITION.fullmatch(name):
            raise MessageError(
                f"partition {name[:64]!r} is no usable name: take 1 to 64 of A-Z, a-z, 0-9, _ . -"
            )
    return replace(presence, partitions=names)
