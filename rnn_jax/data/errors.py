"""The one error that bad data raises."""


class DataError(ValueError):
    """Bad input data: a missing file, a foreign character, a corpus that is too short.

    The message is one line that names the argument, what was expected and what was found, fit to be shown to a
    command-line user as it stands.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(line.strip() for line in message.splitlines()))
