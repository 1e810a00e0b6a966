"""Makes networks smaller: accuracy on pictures, quantisation, pruning."""
