"""Schedules of quantised layers on CPUs, emitted as loops over vectors of an instruction set."""
