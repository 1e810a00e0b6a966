"""Boards over TVM's RPC: serving as one, and using one."""
