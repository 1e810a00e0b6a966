"""Static tuning: ranks decisions by machine code and a cache model, without a device."""
