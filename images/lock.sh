#!/bin/sh
# Writes the images' lock files anew: sh images/lock.sh [--upgrade]. Needs uv.
# Versions already locked stay, unless --upgrade is given. Python 3.13 is Debian trixie's.
set -eu
cd "$(dirname "$0")/.."

lock() { # lock OUTPUT INPUT...
  output=$1
  shift
  uv pip compile --quiet --python-version 3.13 --generate-hashes --no-emit-index-url \
    --custom-compile-command "sh images/lock.sh" --output-file "$output" "$@"
}

lock images/requirements-build.txt images/requirements-build.in "$@"
lock images/hub/requirements.txt pyproject.toml --extra hub --extra hooks images/hub/requirements.in "$@"
lock images/tunnelbot/requirements.txt pyproject.toml --extra tunnelbot images/tunnelbot/requirements.in "$@"
lock images/slurm/requirements.txt images/slurm/requirements.in "$@"
