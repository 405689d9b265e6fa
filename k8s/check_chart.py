"""Checks the chart without a cluster; called by check.sh.

check_chart.py DIRECTORY     what it renders, with defaults and with every value, goes there
"""

import json
import sys
import tempfile
import tomllib
from pathlib import Path

import helm_python as helm
import yaml

from chart_values import ALONE, REFUSED, VALUES, every_value, nested
from render import CHART, HERE, manifests, render

# Maps whose fields are Kubernetes' matter, and explained there.
KUBERNETES_OWN = {
    "router.seccompProfile", "router.resources", "control.resources", "metrics.resources",
    "natLog.resources", "crds.resources", "seLinuxOptions",
}


def check(what, holds):
    if not holds:
        sys.exit(f"k8s/check_chart.py: not so: {what}")


def leaves(schema, definitions, path=""):
    """The paths of all values that a schema knows, as far as they have names of their own."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    named = {name: one for name, one in schema.get("properties", {}).items() if one is not False}
    if not named:
        return {path}
    return set().union(*(leaves(one, definitions, f"{path}.{name}".lstrip("."))
                         for name, one in named.items()))


def check_lint():
    for values in ({}, every_value()):
        messages = helm.lint(CHART, values, strict=True)["messages"]
        # 1 is for information: the chart has no icon.
        findings = [one for one in messages if one["severity"] > 1]
        check(f"helm lint finds nothing, found {findings}", not findings)


def check_version():
    with open(HERE.parent / "Cargo.toml", "rb") as file:
        version = tomllib.load(file)["workspace"]["package"]["version"]
    with helm.Chart.load(CHART) as chart:
        found = {chart.version, chart.metadata["appVersion"]}
    check(f"the chart's versions are Cargo.toml's {version}, found {found}", found == {version})


def check_every_value():
    """Each value is in the tables above, and each changes what is rendered."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = leaves(schema, schema["definitions"]) - {"global"}
    used = VALUES | ALONE
    missing = {path for path in known
               if not any(path == one or path.startswith(f"{one}.") for one in used)}
    check(f"every value of the schema is tried, except {missing}", not missing)
    default = render({})
    for path, value in used.items():
        values = nested(path, value)
        check(f"{path} has an effect", render(values) != default)
    render({"global": {"of": "a chart that has this one as a part"}})


def check_defaults():
    """values.yaml has every value that the schema knows, so that its comment is there too."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in leaves(schema, schema["definitions"]) - {"global"}:
        found, names = defaults, path.split(".")
        while names and path.rpartition(".")[0] not in KUBERNETES_OWN and names[0] != "config":
            check(f"values.yaml has {path}", names[0] in found)
            found = found[names.pop(0)]


def check_config():
    """The schema knows the router's options, with their defaults, but for those that are fixed."""
    example = yaml.safe_load((HERE / "../router/config.example.yaml").read_text())
    for fixed in ("runtime_dir", "socket", "read_only_socket"):
        del example[fixed]
    rendered = yaml.safe_load(render({"config": example})["config.yaml"])
    found = yaml.safe_load(rendered["data"]["config.yaml"])
    del found["read_only_group"]
    check("every option of the router can be set", found == example)
    schema = json.loads((CHART / "values.schema.json").read_text())["definitions"]["config"]
    options = schema["properties"]
    check("the schema has the router's options and no others", options.keys() == example.keys())
    timeouts = options["timeouts"]["properties"]
    check("and its timeouts", timeouts.keys() == example["timeouts"].keys())


def check_arrives():
    """What is given arrives as it is: numbers above all, which Helm reads as floating point."""
    values = every_value()
    files = render(values)
    config = yaml.safe_load(yaml.safe_load(files["config.yaml"])["data"]["config.yaml"])
    pod = yaml.safe_load(files["daemonset.yaml"])["spec"]["template"]["spec"]
    group = config.pop("read_only_group")
    check(f"the configuration arrives, found {config}", config == values["config"])
    check("and the group is one of the router's", [group] == pod["securityContext"]["supplementalGroups"])
    router, control = pod["containers"][:2]
    image = f"{VALUES['image.repository']}:{VALUES['image.tag']}@{VALUES['image.digest']}"
    containers = pod["containers"] + pod["initContainers"]
    check(f"the image is {image}", {one["image"] for one in containers} == {image})
    environment = {one["name"]: one.get("value") for one in control["env"]}
    own_pods = json.loads(environment.pop("SPILLWAY_OWN_PODS"))
    check("the tunnel of own pods arrives", own_pods == VALUES["control.ownPods"])
    expected = {
        "NODE_NAME": None,
        "SPILLWAY_CLUSTER_RANGES": "10.96.0.0/12,fd00:10:96::/112",
        "SPILLWAY_OWN_ADDRESSES": "192.0.2.10,2001:db8::10",
        "SPILLWAY_ANNOUNCE_ON": "eth0",
        "SPILLWAY_NAT64_PREFIX": "64:ff9b::/96",
        "SPILLWAY_UNDERLAY_PROTOCOL": "ipv6",
        "SPILLWAY_REPLY_VNI": "16777215",
        "SPILLWAY_REPLY_VNI_IPV6": "flow",
        "RUST_LOG": "debug",
    }
    check(f"control's environment is {expected}, found {environment}", environment == expected)
    log = [{"name": "RUST_LOG", "value": VALUES["router.log"]}]
    check("the router's log", router["env"] == log)


def check_preflight():
    """What preflight finds is what the router will: it has the same rights and sees the same."""
    for values in ({}, nested("router.privileged", True), every_value()):
        pod = yaml.safe_load(render(values)["daemonset.yaml"])["spec"]["template"]["spec"]
        [preflight], router = pod["initContainers"], pod["containers"][0]
        for field in ("securityContext", "volumeMounts"):
            check(f"preflight has the router's {field}", preflight[field] == router[field])
        words = preflight["command"][2:]
        advises = not values.get("preflight", {}).get("enforce")
        # One that fails would keep a gateway down that the router can still serve.
        check("preflight advises, unless it is to be obeyed", ("--advise" in words) == advises)
        same = [word for word in words if word != "--advise"] == router["command"][2:]
        check("preflight reads the router's configuration", same)


def check_metrics():
    """It listens where it is told, and kubelets ask on the node itself."""
    for address, listen in (("", "[$(HOST_IP)]:9602"), ("::", "[::]:9602"),
                            ("0.0.0.0", "[0.0.0.0]:9602")):
        files = render({"metrics": {"address": address}})
        pod = yaml.safe_load(files["daemonset.yaml"])["spec"]["template"]["spec"]
        metrics = {one["name"]: one for one in pod["containers"]}["metrics"]
        options = dict(word.split("=", 1) for word in metrics["command"] if "=" in word)
        check(f"{listen} is listened on, found {options}", options["--listen"] == listen)
        node = [{"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]
        check("the node's address is given where it is used", metrics.get("env") == (None if address else node))
        # It would be one of the host, and keep the pod off nodes.
        check("no container declares a port", not any("ports" in one for one in pod["containers"]))
        for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            asked = metrics[probe]["httpGet"]
            check(f"{probe} asks for {path}, found {asked}", asked["path"] == path)
            check(f"{probe} asks where nobody else can",
                  options["--probes"] == f"{asked['host']}:{asked['port']}" == "127.0.0.1:9603")
    monitor = yaml.safe_load(render(nested("metrics.podMonitor", ALONE["metrics.podMonitor"]))
                             ["pod-monitor.yaml"])
    check("the monitor has its label", monitor["metadata"]["labels"]["release"] == "prometheus")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    check("and the interval", endpoint["interval"] == "15s")
    [ours] = yaml.safe_load((HERE / "monitoring/podmonitor.yaml").read_text())["spec"]["podMetricsEndpoints"]
    check("and finds the metrics as monitoring/podmonitor.yaml does",
          endpoint["relabelings"] == ours["relabelings"])
    labels = yaml.safe_load(files["daemonset.yaml"])["spec"]["template"]["metadata"]["labels"]
    selected = monitor["spec"]["selector"]["matchLabels"]
    check("it selects what the DaemonSet makes", selected.items() <= labels.items())


def check_service_monitor():
    """It finds the Service, that the gateways' pods, and its port is the one that is listened on."""
    files = render(nested("metrics", {"serviceMonitor": ALONE["metrics.serviceMonitor"], "port": 19602}))
    monitor, service, daemonset = (yaml.safe_load(files[f"{name}.yaml"])
                                   for name in ("service-monitor", "service", "daemonset"))
    [endpoint], [port] = monitor["spec"]["endpoints"], service["spec"]["ports"]
    check("the monitor has its label", monitor["metadata"]["labels"]["release"] == "prometheus")
    check("and the interval", endpoint["interval"] == "15s")
    selected = monitor["spec"]["selector"]["matchLabels"]
    check("it selects the Service", selected.items() <= service["metadata"]["labels"].items())
    template = daemonset["spec"]["template"]
    check("which selects the gateways",
          service["spec"]["selector"].items() <= template["metadata"]["labels"].items())
    check("and is headless", service["spec"]["clusterIP"] == "None")
    check("the port is the Service's", endpoint["port"] == port["name"])
    command = {one["name"]: one for one in template["spec"]["containers"]}["metrics"]["command"]
    check("and listened on", f"--listen=[$(HOST_IP)]:{port['targetPort']}" in command)
    return files["service.yaml"]


def check_nat_log():
    """It asks as `metrics` does; and is root only where its directory is the node's."""
    for host_path, volume, user in (
            ("", {"emptyDir": {}}, 65532),
            ("/var/log/spillway", {"hostPath": {"path": "/var/log/spillway", "type": "DirectoryOrCreate"}}, None)):
        values = {"natLog": {"enabled": True, "hostPath": host_path}, "metrics": {"enabled": False}}
        files = render(values)
        check("the config has the group", "\n    read_only_group: " in files["config.yaml"])
        pod = yaml.safe_load(files["daemonset.yaml"])["spec"]["template"]["spec"]
        log = {one["name"]: one for one in pod["containers"]}["nat-log"]
        rights = log["securityContext"]
        check(f"its user is {user}", rights.get("runAsUser") == user)
        check("it has no capabilities", rights["capabilities"] == {"drop": ["ALL"]})
        mounts = {one["name"]: one for one in log["volumeMounts"]}
        check(f"it mounts two directories, found {mounts}", mounts.keys() == {"read-only", "nat-log"})
        options = dict(word.split("=", 1) for word in log["command"] if "=" in word)
        for option, name in (("--socket", "read-only"), ("--to", "nat-log")):
            path = Path(options[option]).parent
            check(f"{option} is in the volume {name}", str(path) == mounts[name]["mountPath"])
        own = {name: options.get(name) for name in ("--max-size", "--keep")}
        small = {"--max-size": "10", "--keep": "10"} if not host_path else dict.fromkeys(own)
        check(f"a pod's own log is small: {small}, found {own}", own == small)
        volumes = {one.pop("name"): one for one in pod["volumes"]}
        check(f"the log is in {volume}, found {volumes['nat-log']}", volumes["nat-log"] == volume)
        check("the socket's volume is there", "read-only" in volumes)


def check_test():
    """`helm test` asks where the gateways run, as who has the same rights as `metrics`."""
    files = render({})
    test, daemonset = (yaml.safe_load(files[f"{name}.yaml"]) for name in ("test", "daemonset"))
    pod, gateway = test["spec"], daemonset["spec"]["template"]["spec"]
    check("it is a test's hook", test["metadata"]["annotations"]["helm.sh/hook"] == "test")
    for field in ("nodeSelector", "tolerations"):
        check(f"the test's pod has the gateways' {field}", pod[field] == gateway[field])
    metrics = {one["name"]: one for one in gateway["containers"]}["metrics"]
    [container] = pod["containers"]
    rights = {field: value for field, value in pod["securityContext"].items() if field != "seccompProfile"}
    found = rights | container["securityContext"]
    check(f"and the rights of metrics, found {found}", found == metrics["securityContext"])
    check("and its mounts", container["volumeMounts"] == metrics["volumeMounts"])
    socket = [word for word in metrics["command"] if word.startswith("--socket=")]
    check("and its socket", container["command"] == ["spillway", "ready", *socket])


def check_before_end():
    """What containers run before they end is what the router's tests run; and there is time for it."""
    for seconds, expected in yaml.safe_load((HERE / "prestop.yaml").read_text()).items():
        values = {"router": {"drainSeconds": seconds}, "natLog": {"enabled": True},
                  "terminationGracePeriodSeconds": 20}
        pod = yaml.safe_load(render(values)["daemonset.yaml"])["spec"]["template"]["spec"]
        found = {one["name"]: one["lifecycle"]["preStop"]["exec"]["command"] for one in pod["containers"]}
        check(f"before they end containers run {expected}, found {found}", found == expected)
        grace = pod["terminationGracePeriodSeconds"]
        check(f"they have {seconds} s and 20 s for it, found {grace}", grace == seconds + 20)


def says_where(message, path):
    """Whether a refusal names the value: by its path, or by its name and its parent's path."""
    parent, _, name = path.rpartition(".")
    pointers = ["/" + one.replace(".", "/") for one in (path, parent) if one]
    return (pointers[0] in message or f"{path}: " in message or f"{path}." in message
            or (f"at '{''.join(pointers[1:])}'" in message and f"'{name}'" in message))


def check_refused():
    for path, value in REFUSED:
        try:
            render(nested(path, value))
        except (helm.HelmValuesError, helm.HelmRenderError) as error:
            check(f"the refusal of {value} for {path} says where: {error}",
                  says_where(str(error), path))
        else:
            check(f"{value} is refused for {path}", False)


def check_releases():
    """Two releases have nothing in common, so that gateways may differ in their devices."""
    first, second = (
        {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
         for one in yaml.safe_load_all(manifests({}, *release))}
        for release in ((), ("spillway-ens", "spillway-ens")))
    check(f"two releases share nothing, found {first & second}", not first & second)
    elsewhere = {namespace for _, namespace, _ in second} - {"spillway-ens", "default", None}
    check(f"a release is in its own namespace, found {elsewhere}", not elsewhere)


def check_package():
    """What `helm package` packs renders as the directory does."""
    with tempfile.TemporaryDirectory() as directory:
        with helm.Chart.load(helm.package(CHART, destination=directory)) as packed:
            rendered = packed.render({}, name="spillway", namespace="spillway-system")
    packed = {Path(path).name: text for path, text in rendered.items() if text.strip()}
    check("a package renders as the directory does", packed == render({}))


def check_notes():
    notes = render({})["NOTES.txt"]
    for said in ("spillway.io/gateway=true", "eth0", "get spillwaypolicystatuses",
                 "spillway status", "9602/metrics"):
        check(f"the notes say {said}", said in notes)


def main(directory):
    check_lint()
    check_version()
    check_every_value()
    check_defaults()
    check_config()
    check_arrives()
    check_preflight()
    check_metrics()
    service = check_service_monitor()
    check_nat_log()
    check_test()
    check_before_end()
    check_refused()
    check_releases()
    check_package()
    check_notes()
    for name, values in (("default", {}), ("every-value", every_value())):
        (Path(directory) / f"{name}.yaml").write_text(manifests(values))
    (Path(directory) / "service.yaml").write_text(service)
    print(f"chart: Helm {helm.helm_sdk_version()}: {len(VALUES) + len(ALONE)} values have an "
          f"effect, {len(REFUSED)} wrong ones are refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
