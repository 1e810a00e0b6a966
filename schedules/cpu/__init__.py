"""Schedules for CPUs: register tiles, whole vectors, packed weights."""
