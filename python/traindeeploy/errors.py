"""How what the user did wrong, or what cannot be done, reaches the user."""


class TrainDeeployError(Exception):
    """An error that one line explains; the command line prints it and exits with 1."""

    def __init__(self, message: str):
        # Whatever built the message, the user reads a single line.
        super().__init__(" ".join(str(message).split()))


class UsageError(TrainDeeployError):
    """Wrong command-line options; exits with 2."""
