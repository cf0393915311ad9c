"""Cut-outs."""
