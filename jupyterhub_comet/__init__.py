"""Zero to JupyterHub, where a notebook is the researcher's own Slurm job."""

__version__ = "0.1.0"
