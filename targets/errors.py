"""The one exception whose message is meant for the user, not for a developer."""


class UserError(Exception):
    """Something outside this project's code is wrong: a file, a name, a device.

    The message is one line that names the cause and the mend. The command line
    prints it as it is and exits with status 1; libraries may catch it.
    """


class WrongUseError(UserError):
    """What was asked for does not exist or makes no sense: a name, an option, a combination.

    The command line exits with status 2 then.
    """
