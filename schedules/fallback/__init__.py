"""Fallback rules that schedule functions without a schedule of their own."""
