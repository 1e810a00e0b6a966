"""Exceptions whose messages are meant for the user, not for a developer."""


class UserError(Exception):
    """Something outside this project's code is wrong: a file, a name, a device.

    The message is one line that names the cause and the fix. The command line
    prints it and exits with status 1; applications may catch it.
    """


class WrongUseError(UserError):
    """A request cannot be met: an unknown name or option, or a combination that makes no sense.

    The command line exits with status 2.
    """
