"""What a cluster is made of before anything exists: options, folders, addresses. Nothing here touches the machine.

Everything the kernel can see carries the cluster's name or its index, so that `down` finds it without any record.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from localcluster.errors import ClusterError

DEFAULT_NAME = "bert"
CLUSTER_DOMAIN = "cluster.local"
API_PORT = 6443
PAUSE_IMAGE = "localhost/localcluster/pause:1"  # of every pod's sandbox; images.py makes it
MAX_CLUSTERS = 32  # side by side on one machine
MAX_NODES = 8
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The one folder for everything that is downloaded, built or run."""
    if chosen := environment.get("BERTOPS_CACHE"):
        return Path(chosen).absolute()
    base = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base.absolute() / "bert-operator"


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    name: str = DEFAULT_NAME
    nodes: int = 1
    control_plane_only: bool = False
    audit: bool = False
    plain_controllers: bool = False
    """Without nodes: the controller manager as it comes, 20 requests a second for each controller."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            msg = f"--name {self.name!r}: use 1 to 20 lower-case letters, digits and dashes, starting with a letter"
            raise ClusterError(msg)
        if not 1 <= self.nodes <= MAX_NODES:
            msg = f"--nodes {self.nodes}: use 1 to {MAX_NODES}"
            raise ClusterError(msg)

    @property
    def node_numbers(self) -> range:
        """The nodes that run a kubelet."""
        return range(1, 1 if self.control_plane_only else self.nodes + 1)

    @property
    def namespace_numbers(self) -> range:
        """The nodes that have a network namespace: the control plane lives in the first one's in any case."""
        return range(1, max(2, self.node_numbers.stop))


@dataclass(frozen=True)
class Addresses:
    """Every address of one cluster: 10.<200 + index>.0.0/16, cut up the same way for each.

    Node n has a link of its own, .0.(4n)/30: node 1's leads to the machine, any other one's to node 1.
    """

    index: int

    @property
    def everything(self) -> IPv4Network:
        """All of the cluster's addresses; the machine has one route for them."""
        return IPv4Network(f"10.{200 + self.index}.0.0/16")

    @property
    def pods(self) -> IPv4Network:
        """The pods of all nodes."""
        return IPv4Network(f"10.{200 + self.index}.64.0/18")

    @property
    def services(self) -> IPv4Network:
        """The ClusterIPs."""
        return IPv4Network(f"10.{200 + self.index}.128.0/17")

    @property
    def api_service(self) -> IPv4Address:
        """The ClusterIP of the API server, which Kubernetes fixes to the first of the range."""
        return self.services[1]

    @property
    def dns_service(self) -> IPv4Address:
        """The ClusterIP of the cluster's DNS."""
        return self.services[10]

    @property
    def host_link(self) -> str:
        """The machine's only network interface of this cluster."""
        return f"lc{self.index}"

    def pods_of(self, number: int) -> IPv4Network:
        """The pods of one node."""
        return IPv4Network(f"10.{200 + self.index}.{64 + number}.0/24")

    def gateway(self, number: int) -> IPv4Address:
        """The far end of a node's link."""
        return self.everything[4 * number + 1]

    def node(self, number: int) -> IPv4Address:
        """A node's own address."""
        return self.everything[4 * number + 2]


@dataclass(frozen=True)
class Folders:
    """Where one cluster keeps its files."""

    cache: Path
    name: str

    @property
    def cluster(self) -> Path:
        """Everything of this cluster."""
        return self.cache / "clusters" / self.name

    @property
    def logs(self) -> Path:
        """One log per component; `down` leaves them as evidence, the next `up` starts them afresh."""
        return self.cluster / "logs"

    @property
    def state(self) -> Path:
        """Everything but the logs; removed by `down`."""
        return self.cluster / "state"

    @property
    def record(self) -> Path:
        """Options and index: written before anything else is made."""
        return self.state / "cluster.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "kubeconfig"

    @property
    def certificates(self) -> Path:
        """The certificate authority and every key pair."""
        return self.state / "certificates"

    @property
    def processes(self) -> Path:
        """One record per running component."""
        return self.state / "processes"

    @property
    def volumes(self) -> Path:
        """One folder per provisioned volume."""
        return self.state / "volumes"

    def node(self, number: int) -> Path:
        """One node's files."""
        return self.state / node_name(number)


@dataclass(frozen=True)
class Cluster:
    """One cluster, fully named and addressed."""

    options: Options
    addresses: Addresses
    folders: Folders

    @property
    def api_url(self) -> str:
        """The API server as the machine, the nodes and the control plane reach it."""
        return f"https://{self.addresses.node(1)}:{API_PORT}"

    def as_json(self) -> str:
        """The record's text."""
        return json.dumps({"options": asdict(self.options), "index": self.addresses.index})


def cluster_from_json(text: str, folders: Folders) -> Cluster:
    """The opposite of `Cluster.as_json`."""
    record = json.loads(text)
    return Cluster(Options(**record["options"]), Addresses(record["index"]), folders)


def node_name(number: int) -> str:
    """A node's name in Kubernetes."""
    return f"node{number}"


def namespace_name(cluster: str, number: int) -> str:
    """A node's network namespace. The underscores keep one cluster's names from being another's prefix."""
    return f"lc_{cluster}_{node_name(number)}"


def cgroup_name(cluster: str) -> str:
    """The cgroup of all processes of a cluster, below each hierarchy's root."""
    return f"lc_{cluster}"
