"""munged and mariadbd: what Slurm's accounting stands on."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from .folder import Lab
from .probe import answers
from .processes import Process
from .waiting import LabBroken


class Munge:
    """munged with a key and a socket of the lab's own."""

    def __init__(self, lab: Lab) -> None:
        folder = lab.folder("munge")
        self.socket = folder / "munge.socket"
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        self._process = Process(
            "munged",
            ["/usr/sbin/munged", "--foreground", f"--socket={self.socket}", f"--key-file={key}",
             f"--pid-file={folder / 'munged.pid'}", f"--seed-file={folder / 'munged.seed'}",
             f"--log-file={folder / 'munged.log'}", "--num-threads=10"],
            records=lab.records, log=lab.logs / "munged.log", env=lab.environment(),
        )  # fmt: skip

    def start(self) -> None:
        """Start and wait for the socket."""
        self._process.start()
        self._process.wait_ready(self.socket.exists, limit_s=10)

    def stop(self) -> None:
        """End munged."""
        self._process.stop()


class Database:
    """mariadbd for slurmdbd, on a loopback port, without durability: it lives for one run."""

    def __init__(self, lab: Lab, port: int) -> None:
        self.port = port
        self.password = secrets.token_hex(16)
        self._data = lab.folder("mariadb", 0o700) / "data"
        self._socket = lab.root / "mariadb" / "socket"
        # A tmpdir of its own: at its start mariadbd removes everybody's "#sql" files from there.
        self._options = [
            "--no-defaults", f"--datadir={self._data}", "--user=root",
            f"--tmpdir={lab.folder('mariadb/tmp', 0o700)}",
            "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync",
            "--innodb-lock-wait-timeout=900", "--skip-log-bin", "--performance-schema=OFF",
        ]  # fmt: skip
        self._process = Process(
            "mariadbd",
            ["/usr/sbin/mariadbd", *self._options, f"--socket={self._socket}",
             "--bind-address=127.0.0.1", f"--port={port}",
             f"--init-file={self._write_init(lab.root / 'mariadb' / 'init.sql')}"],
            records=lab.records, log=lab.logs / "mariadbd.log", env=lab.environment(),
        )  # fmt: skip

    def _write_init(self, path: Path) -> Path:
        path.touch(0o600)
        path.write_text(
            "CREATE DATABASE IF NOT EXISTS slurm_acct_db;\n"
            f"CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY '{self.password}';\n"
            "GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1';\n"
        )
        return path

    def start(self) -> None:
        """Make the data folder at the first start; returns without waiting."""
        if not self._data.exists():
            made = subprocess.run(
                ["mariadb-install-db", *self._options, "--skip-test-db",
                 "--auth-root-authentication-method=socket"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if made.returncode:
                shutil.rmtree(self._data, ignore_errors=True)
                raise LabBroken(f"mariadb-install-db: {made.stdout[-2000:]}{made.stderr[-2000:]}")
        self._process.start()

    def wait_ready(self) -> None:
        """Wait until the port answers: the init file has then been run."""
        self._process.wait_ready(lambda: answers(self.port), limit_s=60)

    def stop(self) -> None:
        """End the database."""
        self._process.stop()
