"""Boards that are somewhere else, over TVM's RPC: to serve as one, and to use one."""
