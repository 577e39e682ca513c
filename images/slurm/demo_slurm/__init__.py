"""Entry point of the demo Slurm image: one program, roles `controller` and `compute`.

__main__ -> roles -> (files, accounting, supervisor) -> commands

A role prepares files, then starts its daemons in order, each only when the one before answers.
The container ends when any of them ends, so that Kubernetes starts it anew.
Python's standard library only: it runs on Debian's python3.
"""
