module jupyterhub-comet.invalid/local/pause

go 1.24.0
