"""Autotuning: this project's schedules as the design space of TVM's MetaSchedule."""
