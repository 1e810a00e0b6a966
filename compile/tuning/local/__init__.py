"""Builds candidates, and measures them on this machine."""
