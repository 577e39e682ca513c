#!/bin/sh
# Make the lock files of the lab's environments again. Needs uv (in the development environment).
set -eu
cd "$(dirname "$0")/../.."
compile() { uv pip compile --quiet --upgrade --no-header --annotation-style line "$@"; }

# Compute nodes: Debian 12's Python, the hub's two lines.
for hub in 5.5.4 6.1.1; do
  echo "jupyterhub==$hub" |
    compile --python-version 3.11 tests/lab/node-requirements.in - -o "tests/lab/node-$hub.txt"
done
# The hub's side on the second line; the first line runs from the development environment.
echo "jupyterhub==6.1.1" |
  compile --python-version 3.11 --extra hub --extra tunnelbot pyproject.toml - -o tests/lab/hub-6.1.1.txt
