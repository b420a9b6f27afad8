"""A real Kubernetes on a bare Linux machine: no Docker, no virtual machine, no registry.

`cluster.py` is the recipe. Each node is a network namespace, a mount namespace and a cgroup of its own, so that the
machine sees of a cluster one network interface, one route, some named network namespaces, a cgroup and one folder;
whatever a node mounts or filters vanishes with its last process. README.md shows the commands.
"""
