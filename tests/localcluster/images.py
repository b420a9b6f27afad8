"""Gives nodes the images that they run; without a registry, each is imported from an archive."""

from collections.abc import Sequence
from pathlib import Path

from localcluster.archives import archived_images, pause_archive
from localcluster.config import Cluster
from localcluster.node import containerd
from localcluster.progress import step


def load(cluster: Cluster, archives: Sequence[Path]) -> None:
    """Import OCI archives into every node that lacks them."""
    for number in cluster.options.node_numbers:
        present = containerd(cluster, number).images()
        for archive in archives:
            wanted = archived_images(archive)
            if wanted and wanted <= present:
                step(f"node{number} already has {', '.join(sorted(name for name, _ in wanted))}")
                continue
            step(f"importing {archive.name} into node{number}")
            containerd(cluster, number).add(archive)


def load_pause(cluster: Cluster) -> None:
    """Give the nodes the image of their pods' sandboxes."""
    load(cluster, [pause_archive(cluster.folders.cache)])
