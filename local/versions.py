"""The versions that local/ builds and the fixed addresses of its cluster, in one place."""

KUBERNETES = "1.34.4"
HELM = "3.22.0"
KUBE_ROUTER = "2.1.0"
COREDNS = "1.12.4"
CONFIGURABLE_HTTP_PROXY = "5.2.0"
Z2JH = "4.4.0"
DEBIAN_SUITE = "trixie"
# The oldest Go that Kubernetes' go.mod accepts.
GO_AT_LEAST = (1, 24)

# Names that no registry can have: these images exist on this machine only.
PAUSE_IMAGE = "comet.invalid/pause:1"
COREDNS_IMAGE = f"comet.invalid/coredns:{COREDNS}"
DEBIAN_IMAGE = f"docker.io/library/debian:{DEBIAN_SUITE}-slim"
PROXY_IMAGE = f"quay.io/jupyterhub/configurable-http-proxy:{CONFIGURABLE_HTTP_PROXY}"

BRIDGE = "comet0"
NODE = "local"
NODE_ADDRESS = "10.244.0.1"  # of the bridge: node, API server, gateway of all pods
POD_RANGE = "10.244.0.0/24"
SERVICE_RANGE = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
LOADBALANCER_RANGE = "10.250.0.0/24"
# Fixed, so that the demo's jobs can dial the gateway as those of a real cluster do: from
# outside, by its load balancer's address.
HUB_ADDRESS = "10.250.0.10"
GATEWAY_ADDRESS = "10.250.0.11"
API_PORT = 6443
API_URL = f"https://{NODE_ADDRESS}:{API_PORT}"
# Not etcd's usual 2379, 2380: Debian's package may have started an etcd of its own there.
ETCD_PORT = 12379
ETCD_PEER_PORT = 12380
# Number of our routing table and priority of the rule that leads pods' packets to it.
ROUTING_TABLE = "10250"

RELEASE = "comet"
NAMESPACE = "comet"
CONTEXT = "comet-local"
STORAGE_CLASS = "comet-local"
# uid and gid of the hub, which must be able to write its database's folder: hostPath volumes
# ignore fsGroup.
STORAGE_OWNER = 1000
