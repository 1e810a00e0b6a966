"""Descriptions of machines: presets, aliases, and the detection of this one."""
