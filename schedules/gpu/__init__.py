"""Schedules for GPUs: a register tile per thread, loads of 128 bits, branches that agree.

Those named `shared` stage operands in a work-group's memory on the chip, which NVIDIA's GPUs have;
on a Mali it is ordinary memory, so nothing is gained by it there.
"""
