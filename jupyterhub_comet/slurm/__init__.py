"""Talking to Slurm: its words (pure modules), its commands (client), its queue (monitor)."""
