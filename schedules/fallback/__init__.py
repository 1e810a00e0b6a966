"""Schedules by rule, for what has none of its own."""
