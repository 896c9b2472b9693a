"""The errors of zoo and training: what was asked, what was found, what would have worked.

`exit_code` is what `convzoo` exits with: 2 usage, 3 data invalid, 4 gate failed or drift,
5 inconclusive, 6 interrupted and resumable, 7 parity failed.

    ConvzooError
    +-- UsageError               2
    |   +-- ExplainError
    +-- DataError                3
    |   +-- ImageError
    +-- ArtifactError            3
    |   +-- CorruptVersionError
    |   +-- VersionExistsError   2
    |   +-- NoRoomError
    |   +-- RemoteError          6
    +-- GateFailedError          4
    +-- DriftError               4
    +-- InconclusiveError        5
    +-- InterruptedRunError      6
    +-- BusyError                6
    +-- ParityError              7
"""


class ConvzooError(Exception):
    """The base of every error that is an answer to the user."""

    exit_code = 1


class UsageError(ConvzooError):
    """A name, key or value that cannot be used."""

    exit_code = 2


class ExplainError(UsageError):
    """An explanation that this network, layer or engine cannot give; says which can."""


class DataError(ConvzooError):
    """Data that is missing, truncated, corrupt or not what it says it is."""

    exit_code = 3


class ImageError(DataError):
    """Bytes that are no image, or an image that must not or cannot be used."""


class ArtifactError(ConvzooError):
    """A published version that cannot be read."""

    exit_code = 3


class CorruptVersionError(ArtifactError):
    """A published version whose files are not those its manifest names."""


class VersionExistsError(ArtifactError):
    """A version number that is taken already."""

    exit_code = 2


class NoRoomError(ArtifactError):
    """The disk has no room for a version; when it has, the same works."""


class RemoteError(ArtifactError):
    """An object store that does not answer, or refuses; what was begun can be begun again."""

    exit_code = 6


class InterruptedRunError(ConvzooError):
    """A run that was stopped from outside and can be resumed."""

    exit_code = 6


class GateFailedError(ConvzooError):
    """A candidate that is worse than what is in production."""

    exit_code = 4


class DriftError(ConvzooError):
    """What a version is asked is no longer what it was trained on."""

    exit_code = 4


class InconclusiveError(ConvzooError):
    """A question on which the data at hand allow no verdict."""

    exit_code = 5


class BusyError(ConvzooError):
    """Another process is at work on the same thing; later it can be done."""

    exit_code = 6


class ParityError(ConvzooError):
    """Two computations of the same thing that do not agree."""

    exit_code = 7
