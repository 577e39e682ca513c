"""The accounting database: its MariaDB, its user, and who may charge what on cluster comet."""

import shutil
from pathlib import Path

from demo_slurm.commands import run
from demo_slurm.files import STATE

DATABASE = STATE / "mysql"
SOCKET = Path("/run/mysqld/mysqld.sock")
CLUSTER = "comet"
DEFAULT_ACCOUNT = "demo"
ACCOUNTS = (DEFAULT_ACCOUNT, "TG-DEMO01")
# jhquery is left out: without an association it may ask for everybody's jobs and submit none.
SUBMITTERS = ("alice", "bob")

MARIADBD = (
    "mariadbd", "--no-defaults", "--user=mysql", f"--datadir={DATABASE}", f"--socket={SOCKET}",
    "--skip-networking", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M",
    "--innodb-lock-wait-timeout=900",
)  # fmt: skip
MARIADB_PING = ("mariadb-admin", "--no-defaults", f"--socket={SOCKET}", "--user=root", "ping")


def ensure_database() -> None:
    """Make MariaDB's own tables, unless a volume already has them.

    They are made under another name and renamed, so that a container that was killed half way
    does not leave a folder that looks finished.
    """
    if DATABASE.exists():
        return
    unfinished = DATABASE.with_suffix(".new")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    run(
        ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={unfinished}",
         "--auth-root-authentication-method=socket", "--skip-test-db",
         "--innodb-log-file-size=32M"],
        limit_s=180,
    )  # fmt: skip
    unfinished.rename(DATABASE)


def ensure_database_user(password: str) -> None:
    """Let slurmdbd in; the password goes through standard input, not through the process list."""
    run(
        ["mariadb", "--no-defaults", f"--socket={SOCKET}", "--user=root"],
        stdin="CREATE DATABASE IF NOT EXISTS slurm_acct_db;\n"
        "CREATE USER IF NOT EXISTS slurm@localhost;\n"
        f"ALTER USER slurm@localhost IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON slurm_acct_db.* TO slurm@localhost;\n",
    )


def _listed(entity: str, column: str) -> set[str]:
    """Return the names that sacctmgr lists; in small letters, as it keeps accounts."""
    answer = run(["sacctmgr", "-n", "-P", "list", entity, f"format={column}"])
    return {line.strip().lower() for line in answer.splitlines()}


def ensure_associations() -> None:
    """Add cluster, accounts and users that are not there yet (adding one twice is an error)."""
    if CLUSTER not in _listed("cluster", "cluster"):
        run(["sacctmgr", "-i", "add", "cluster", CLUSTER])
    accounts = _listed("account", "account")
    for account in ACCOUNTS:
        if account.lower() not in accounts:
            run(["sacctmgr", "-i", "add", "account", account, f"cluster={CLUSTER}",
                 "description=demo", "organization=demo"])  # fmt: skip
    users = _listed("user", "user")
    for user in SUBMITTERS:
        if user not in users:
            run(["sacctmgr", "-i", "add", "user", user, f"cluster={CLUSTER}",
                 f"account={','.join(ACCOUNTS)}", f"defaultaccount={DEFAULT_ACCOUNT}"])  # fmt: skip
