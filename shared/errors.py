"""Everything Warren raises on purpose, by what the caller can do about it.

WarrenError
├─ ConfigError               exit 2   the user's settings are wrong: mend and run again
├─ UnreachableError          exit 3   a service does not answer: retry, or start it
│  ├─ BrokerUnreachable
│  ├─ StateUnreachable
│  └─ DiskFull                        a folder takes no more: make room there
├─ BrokerError               exit 3   the broker answered, and not with yes
│  ├─ NotDeclaredError                a name is missing at the broker: wait for the coordinator
│  ├─ UnroutableError                 no queue takes the message
│  ├─ RefusedError                    the broker forbids it (permissions, sizes, arguments)
│  │  └─ OtherArgumentsError          what is to be declared is there, and is not the same
│  └─ UnconfirmedError                no confirm in time: the message may or may not be there
├─ FederationFailed          exit 4   the federation cannot go on
├─ LeadershipLost            exit 4   another coordinator leads now
├─ JournalError              exit 4   the log is not what its own entries say
├─ LogShortened              exit 4   a log lost its end: read the logs again and go on
├─ VerificationFailed        exit 5   a recomputed digest differs from the recorded one
└─ MessageError              (never ends a process) bytes that are no message of ours
   ├─ UnknownVersionError
   ├─ OversizeError
   └─ ChecksumError
"""

from __future__ import annotations


class WarrenError(Exception):
    """Root of all; its text is one sentence that a user can act on."""

    exit_code = 1


class ConfigError(WarrenError):
    """Raised when a setting, file or argument of the user's is wrong."""

    exit_code = 2


class UnreachableError(WarrenError):
    """Raised when a service does not answer."""

    exit_code = 3


class BrokerUnreachable(UnreachableError):
    """Raised when no connection to the broker can be had."""


class StateUnreachable(UnreachableError):
    """Raised when the state store does not answer."""


class DiskFull(UnreachableError):
    """Raised when a folder can't be written to."""


class BrokerError(WarrenError):
    """Raised when the broker refuses what was asked."""

    exit_code = 3


class NotDeclaredError(BrokerError):
    """Raised when an exchange or queue does not exist (yet) at the broker."""


class UnroutableError(BrokerError):
    """Raised when a message reached its exchange, but no queue."""


class RefusedError(BrokerError):
    """Raised when the broker forbids an operation, whoever retries it."""


class OtherArgumentsError(RefusedError):
    """Raised when an exchange or queue is there already, of another kind or with other arguments."""


class UnconfirmedError(BrokerError):
    """Raised when a publish got no confirm in time, after retries."""


class FederationFailed(WarrenError):
    """Raised when the federation cannot go on: quorum lost, or nothing to train."""

    exit_code = 4


class LeadershipLost(WarrenError):
    """Raised when the journal names a later leader than this process."""

    exit_code = 4


class JournalError(WarrenError):
    """Raised when entries of the journal are missing or contradict each other."""

    exit_code = 4


class LogShortened(WarrenError):
    """Raised when a log no longer reaches as far as it was known to: the broker lost confirmed messages."""

    exit_code = 4


class VerificationFailed(WarrenError):
    """Raised when what the log gives differs from what it recorded."""

    exit_code = 5


class MessageError(WarrenError):
    """Raised when bytes from the broker are not a message of ours."""


class UnknownVersionError(MessageError):
    """Raised when a message speaks a protocol version that this Warren does not know."""


class OversizeError(MessageError):
    """Raised when a message claims more than its bounds allow; nothing was allocated for it."""


class ChecksumError(MessageError):
    """Raised when a part's bytes do not match its checksum or its length."""
