"""The process lab: real Slurm, sshd, JupyterHub, proxy and tunnelbot as processes of one machine.

Nothing here is a fake. Each module starts one part, knows when it is ready and ends it by its
process id; tests/integration/conftest.py turns the parts into pytest fixtures. README.md in
this folder lists the fixtures.
"""
