"""Schedules for GPUs: a register tile per thread, 128-bit loads, no divergent branches.

Those named `shared` stage operands in on-chip memory of a work-group, which NVIDIA's GPUs have; on
a Mali it is ordinary memory, so there would be no gain.
"""
