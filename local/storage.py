"""Folders of this machine as PersistentVolumes for the storage class comet-local.

hostPath volumes ignore fsGroup, so each folder is made owned by the hub's user (1000). A folder
is removed with its volume, which Kubernetes releases when the claim is deleted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from local import versions
from local.api import Api, Json

CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"


def make_volume(claim: Json, folders: Path) -> Json:
    """Make the manifest of a volume that only this claim may take (pure)."""
    metadata, spec = claim["metadata"], claim["spec"]
    name = f"{metadata['namespace']}-{metadata['name']}-{metadata['uid'][:8]}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": versions.STORAGE_CLASS,
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            # Nobody but us acts on Delete: a released volume waits for us in phase Failed.
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": str(folders / name), "type": "Directory"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }


def is_waiting(claim: Json) -> bool:
    """Whether a claim is of our class and has no volume yet (pure)."""
    spec = claim["spec"]
    return spec.get("storageClassName") == versions.STORAGE_CLASS and not spec.get("volumeName")


def is_released(volume: Json) -> bool:
    """Whether a volume of ours has lost its claim for good (pure)."""
    ours = volume["spec"].get("storageClassName") == versions.STORAGE_CLASS
    return ours and volume.get("status", {}).get("phase") in ("Released", "Failed")


def reconcile(
    api: Api, claims: Iterable[Json], volumes: Iterable[Json], folders: Path
) -> list[str]:
    """Make volumes for waiting claims, remove released ones; return lines for the log.

    Raises ApiError; the caller tries again.
    """
    lines = []
    existing = {volume["metadata"]["name"]: volume for volume in volumes}
    for claim in filter(is_waiting, claims):
        volume = make_volume(claim, folders)
        name = volume["metadata"]["name"]
        if name not in existing:
            _make_folder(folders / name)
            api.post(VOLUMES, volume)
            lines.append(f"volume {name}: made")
    for name, volume in existing.items():
        if is_released(volume):
            api.delete(f"{VOLUMES}/{name}")
            shutil.rmtree(folders / name, ignore_errors=True)
            lines.append(f"volume {name}: removed")
    return lines


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o770)
    os.chown(folder, versions.STORAGE_OWNER, versions.STORAGE_OWNER)
