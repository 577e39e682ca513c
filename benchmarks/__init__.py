"""Ours against the stock thing, side by side in one run."""
