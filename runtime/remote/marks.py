"""Names and prefixes that a board and its clients agree on."""

#: Prefix of the names of functions that only this project's boards have.
PREFIX = "mobilenet_tvm.board."

#: Prefix of a `UserError`'s message, since TVM does not transmit the type of an error.
USER_ERROR = "UserError: "

#: Prefix of the reason why the code that a session ran ended its process.
CRASHED = "SessionCrashed: "

#: Most bytes of a file that a board takes.
MAX_UPLOAD = 1 << 30
