#!/bin/sh
# Install what the process lab needs and this machine lacks: Slurm, munge, MariaDB, sshd, node.
# Debian or Ubuntu, as root; a second run changes nothing. No service of the distribution is
# started: the lab runs its own daemons, on its own ports, and ends them.
set -eu

wanted=""
need() { # need PROGRAM PACKAGE...: mark the packages if the program is absent
  program=$1
  shift
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || wanted="$wanted $*"
}
need munged munge
need slurmctld slurmctld
need slurmd slurmd
need slurmdbd slurmdbd slurm-wlm-mysql-plugin
need sbatch slurm-client
need mariadbd mariadb-server
need sshd openssh-server
need ssh openssh-client
need useradd passwd
# Login shells that people have: none of them may come between the hub and sbatch.
need dash dash
need ksh ksh93u+m
need zsh zsh
need tcsh tcsh
need fish fish
# The notebooks' Python must be the distribution's: users of the lab cannot enter /root.
[ -x /usr/bin/python3 ] || wanted="$wanted python3"
/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || wanted="$wanted python3-venv"
# The proxy asks for node 20 or newer: Debian 13 has it, an older machine must bring its own.
need node nodejs
need npm npm

if [ -n "$wanted" ]; then
  echo "lab: installing$wanted"
  # Packages start their services unless this file says no (status 101); ours is removed again.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086 # a list of words is meant
  apt-get install -qq -y --no-install-recommends $wanted >/dev/null
fi

major=$(node --version | sed 's/^v\([0-9]*\).*/\1/')
if [ "$major" -lt 20 ]; then
  echo "lab: node $(node --version) is too old, the proxy needs 20 or newer" >&2
  exit 1
fi

# The notebook, hub and proxy environments: built once, kept in the cache.
cd "$(dirname "$0")/../.."
for python in .venv/bin/python python3; do
  if command -v "$python" >/dev/null; then
    "$python" -m tests.lab.environments
    break
  fi
done
