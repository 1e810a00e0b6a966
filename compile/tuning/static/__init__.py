"""Static tuning: decisions ranked by their machine code and a cache model, without a device."""
