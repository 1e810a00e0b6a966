"""What a machine is: presets, aliases, and the detection of this one."""
