"""Values to try the chart with: each once, and wrong ones."""

import functools

# Every value, each with something else than its default. Together they can be rendered.
VALUES = {
    "image.repository": "registry.example:5000/spillway",
    "image.tag": "1.2.3",
    "image.digest": "sha256:" + "0123456789abcdef" * 4,
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "config.devices": [
        {"name": "eth0", "queues": 4, "mode": "native", "zero_copy": True},
        {"name": "spw-pods", "mode": "generic", "zero_copy": False},
    ],
    "config.workers": 4,
    "config.tunnel_port": 4789,
    "config.frame_size": 4096,
    "config.umem_frames": 4194304,
    "config.flows_max": 16777216,
    "config.mss_clamp": False,
    "config.timeouts.tcp_opening": 241,
    "config.timeouts.tcp_established": 7441,
    "config.timeouts.tcp_half_closed": 901,
    "config.timeouts.tcp_closing": 11,
    "config.timeouts.udp": 301,
    "config.timeouts.icmp": 604800,
    "config.idle": "spin",
    "config.unclassified_tunnel_frames": "pass",
    "router.log": "spillway=debug,info",
    "router.seccompProfile": {"type": "Localhost", "localhostProfile": "spillway.json"},
    "router.resources": {"requests": {"cpu": 2}, "limits": {"memory": "1.5Gi"}},
    "control.log": "debug",
    "control.clusterRanges": ["10.96.0.0/12", "fd00:10:96::/112"],
    "control.ownAddresses": ["192.0.2.10", "2001:db8::10"],
    "control.announceOn": "eth0",
    "control.ownPods": {
        "address": "169.254.44.2",
        "peers": [{"address": "169.254.44.1", "device": "eth0", "mac": "02:00:a9:fe:2c:01"}],
    },
    "control.nat64Prefix": "64:ff9b::/96",
    "control.underlayProtocol": "ipv6",
    "control.replyVni": 16777215,
    "control.replyVniIpv6": "flow",
    "control.resources": {"requests": {"cpu": "0.1"}, "limits": {"memory": "128Mi"}},
    "preflight.enforce": True,
    "metrics.log": "warn",
    "metrics.address": "127.0.0.1",
    "metrics.port": 19602,
    "metrics.probesPort": 19603,
    "metrics.resources": {"limits": {"memory": "64Mi"}},
    "crds.nodeSelector": {"kubernetes.io/os": "linux"},
    "crds.tolerations": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}],
    "crds.resources": {"requests": {"cpu": "1m"}},
    "nodeSelector": {"topology.kubernetes.io/zone": "a"},
    "tolerations": [
        {"key": "egress", "operator": "Equal", "value": "yes", "effect": "NoExecute",
         "tolerationSeconds": 60},
    ],
    "priorityClassName": "egress.critical",
    "updateStrategy.maxUnavailable": "25%",
    "terminationGracePeriodSeconds": 30,
    "podDisruptionBudget.minAvailable": 2,
    "podLabels": {"team": "network"},
    "podAnnotations": {"example.com/on": "true"},
    "seLinuxOptions": {"type": "spc_t", "user": "system_u", "role": "system_r", "level": "s0"},
}

# Those that take others away, and what no schema of Kubernetes' own knows.
ALONE = {
    "preflight.enabled": False,
    "metrics.enabled": False,
    "metrics.podMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "15s"},
    "metrics.serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "15s"},
    "router.privileged": True,
    "crds.install": False,
    "updateStrategy.type": "OnDelete",
    "podDisruptionBudget.enabled": False,
    "kustomize": True,
}

# Where a value is, and what must be refused there. The message must say where.
REFUSED = [
    ("tolerate", []),
    ("image.name", "spillway"),
    ("image.repository", ""),
    ("image.repository", "spillway@sha256:0"),
    ("image.tag", 1.2),
    ("image.tag", "a b"),
    ("image.digest", "0123"),
    ("image.pullPolicy", "Sometimes"),
    ("imagePullSecrets", ["registry"]),
    ("config.device", []),
    ("config.devices", []),
    ("config.devices", [{"name": f"eth{index}"} for index in range(17)]),
    ("config.devices", [{"name": "eth0"}, {"name": "eth0"}]),
    ("config.devices.0.name", "eth/0"),
    ("config.devices.0.name", "."),
    ("config.devices.0.name", "a-name-of-16-chars"),
    ("config.devices.0.queues", 0),
    ("config.devices.0.mode", "driver"),
    ("config.devices.0.zero_copy", "yes"),
    ("config.workers", 65),
    ("config.workers", "4"),
    ("config.tunnel_port", 0),
    ("config.frame_size", 1024),
    ("config.umem_frames", 4194305),
    ("config.flows_max", 0),
    ("config.mss_clamp", 1),
    ("config.timeouts.udp", 0),
    ("config.timeouts.sctp", 60),
    ("config.idle", "rest"),
    ("config.unclassified_tunnel_frames", "keep"),
    ("config.runtime_dir", "/run/elsewhere"),
    ("config.socket", "/run/elsewhere.sock"),
    ("config.read_only_socket", "/run/elsewhere.sock"),
    ("config.read_only_group", 0),
    ("router.log", "info, debug"),
    ("router.privileged", "no"),
    ("router.seccompProfile.type", "None"),
    ("router.seccompProfile.localhostProfile", "spillway.json"),
    ("router.seccompProfile", {"type": "Localhost"}),
    ("router.resources.requests.cpu", "much"),
    ("router.resources.request", {}),
    ("control.clusterRanges", "10.96.0.0/12"),
    ("control.clusterRanges", ["10.96.0.0"]),
    ("control.clusterRanges", ["10.96.0.0/33"]),
    ("control.ownAddresses", ["192.0.2.10/32"]),
    ("control.announceOn", "eth 0"),
    ("control.announceOn", "eth9"),
    ("control.ownPods", {"address": "169.254.44.2"}),
    ("control.ownPods", {"address": "::2", "peers": [{"address": "::1", "device": "eth9"}]}),
    ("control.nat64Prefix", "64:ff9b::/97"),
    ("control.nat64Prefix", "10.0.0.0/32"),
    ("control.underlayProtocol", "IPv6"),
    ("control.replyVni", 16777216),
    ("control.replyVni", "2"),
    ("control.replyVniIpv6", "flows"),
    ("control.resources.memory", "64Mi"),
    ("preflight.enabled", "on"),
    ("preflight.enforce", "yes"),
    ("preflight.config", "/etc/spillway/config.yaml"),
    ("metrics.enabled", 1),
    ("metrics.address", "localhost"),
    ("metrics.port", 65536),
    ("metrics.probesPort", 0),
    ("metrics.podMonitor.interval", "15"),
    ("metrics.podMonitor.labels.release", 1),
    ("metrics.serviceMonitor.interval", "15"),
    ("metrics.serviceMonitor.name", "spillway"),
    ("crds.install", "yes"),
    ("crds.tolerations", [{"operator": "Any"}]),
    ("nodeSelector", {"spillway.io/gateway": "false"}),
    ("nodeSelector", {"zone": 1}),
    ("tolerations", [{"taint": "egress"}]),
    ("priorityClassName", "System"),
    ("updateStrategy.type", "Recreate"),
    ("updateStrategy.maxUnavailable", 0),
    ("updateStrategy.maxUnavailable", "0%"),
    ("terminationGracePeriodSeconds", 0),
    ("podDisruptionBudget.enabled", "true"),
    ("podDisruptionBudget.minAvailable", "50%"),
    ("podDisruptionBudget.maxUnavailable", 1),
    ("podLabels", {"app.kubernetes.io/name": "other"}),
    ("podAnnotations", {"example.com/on": True}),
    ("seLinuxOptions", {"context": "spc_t"}),
    ("kustomize", "yes"),
]


def nested(path, value):
    """{"a": {"b": value}} for "a.b"; the number of a list's element stands for a list with it."""
    for name in reversed(path.split(".")):
        value = [value] if name == "0" else {name: value}
    return value


def merged(one, other):
    """Both, as Helm merges values: maps by their keys, anything else whole."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    return one | {name: merged(one[name], value) if name in one else value
                  for name, value in other.items()}


def every_value():
    return functools.reduce(merged, (nested(*item) for item in VALUES.items()), {})
