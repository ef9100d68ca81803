"""The one error that bad data raises."""


class DataError(ValueError):
    """A fault in the user's data; the message names the file or value and how to mend it."""


def data_error_behind(error: BaseException) -> DataError | None:
    """The DataError that caused `error`, if one did; MONAI's Compose and ConfigParser raise RuntimeErrors from it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DataError):
        cause = cause.__cause__
    return cause
