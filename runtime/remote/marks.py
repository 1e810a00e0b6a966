"""Names and marks by which a board and its client understand each other over TVM's RPC."""

#: Begins the name of each function that only this project's boards have.
PREFIX = "mobilenet_tvm.board."

#: Before the message of a `UserError`. TVM sends an error's message, and not its type.
USER_ERROR = "UserError: "

#: Before the reason, where a session's process was ended by the code that it ran.
CRASHED = "SessionCrashed: "
