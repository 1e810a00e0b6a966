"""Judges candidates for ARM cores by what they execute in an emulator, without a device."""
