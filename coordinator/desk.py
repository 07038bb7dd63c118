"""The operator's requests at the coordinator: reads again the update that one is about. Decides nothing."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from itertools import chain, takewhile

from coordinator.facts import Answer, Closed, State
from coordinator.lookup import head, message_at
from coordinator.models import GlobalModel
from coordinator.moves import Appealed
from coordinator.results import Results
from coordinator.validation import unfit
from shared import codec
from shared.broker.port import Broker, Part
from shared.errors import MessageError
from shared.messages import MAX_REASON_CHARS, Readmit
from shared.runtime import Runtime
from shared.topology import Topology

log = logging.getLogger(__name__)


class Desk:
    """For the coordinator's thread alone. What it reads is held by `results`, until that forgets it."""

    def __init__(
        self, broker: Broker, topology: Topology, results: Results, model: GlobalModel, runtime: Runtime
    ) -> None:
        self._broker = broker
        self._topology = topology
        self._results = results
        self._model = model
        self._runtime = runtime

    def receive(self, part: Part, state: State) -> Appealed | None:
        """The event that a request makes; None if it is decided already, or none that is to be decided."""
        try:
            codec.check_part(part)
            request = Readmit.from_header(codec.decode(part.body)[0])
        except MessageError as error:
            log.warning("a request to readmit an update is malformed: %s", error)
            return None
        if state.rules.attest and part.user_id in state.sites:
            log.warning("login %r is a site's, and may not readmit updates", part.user_id)
            return None
        if request.run != state.run or part.message_id in state.appeals:
            return None
        answer = self._update(request, state)
        reason, who = request.reason[:MAX_REASON_CHARS], request.who[:MAX_REASON_CHARS]
        return Appealed(self._runtime.time(), part.message_id, answer, reason, who, part.user_id)

    def _update(self, request: Readmit, state: State) -> Answer:
        """What the log has at the request's offset; its refusal says why it is no update that can count."""
        unknown = Answer(
            "", "", "", 0, 0, "", 0, request.offset, request.message_id, request.sender,
            refusal="there is no update with a verdict at that offset",
        )  # fmt: skip
        # What lies further on is still to be read, and gets its verdict then.
        end = max(state.decided, state.gap)
        if not 0 <= request.offset <= end:
            return unknown
        with closing(message_at(self._broker, self._topology, request.offset, self._runtime)) as message:
            parts = takewhile(lambda part: part.offset <= end, message)
            first = next(parts, None)
            if first is None or (first.message_id, first.user_id) != (request.message_id, request.sender):
                return unknown
            answer = head(first)
            # Only what may count is read to its end: of something unfinished, that would be the log's.
            if answer.refusal or (why := unfit(state, answer)):
                return replace(answer, refusal=answer.refusal or why)
            whole = self._results.again(chain((first,), parts))
        return self._borne(whole, state) if whole else replace(answer, refusal="it is not whole")

    def _borne(self, answer: Answer, state: State) -> Answer:
        if answer.refusal:
            return answer
        payload = self._results.payload(answer)
        assert payload is not None
        return replace(answer, refusal=self._model.bears(state.version, Closed.of(answer), payload))
