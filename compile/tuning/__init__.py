"""Autotuning: searches this project's design spaces, measuring here or on boards."""
