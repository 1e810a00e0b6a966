"""Schedules for GPUs: a register tile per thread, 128-bit loads, no work shared in a group."""
