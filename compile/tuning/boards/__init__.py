"""Measures candidates on boards behind TVM's RPC."""
