"""What a reviewer would look at first in the manifests; called by check.sh.

check.py RENDERED POLICY_CRD POLICIES...
"""

import sys

import jsonschema
import yaml

CAPABILITIES = ["NET_ADMIN", "NET_RAW", "BPF", "PERFMON", "IPC_LOCK"]


def load(path):
    with open(path, encoding="utf-8") as file:
        return [document for document in yaml.safe_load_all(file) if document]


def check(what, holds):
    if not holds:
        sys.exit(f"k8s/check.py: not so: {what}")


def check_daemonset(pod):
    router, control = pod["containers"]
    check("the containers are router and control", [router["name"], control["name"]] == ["router", "control"])
    check("no token by itself", pod["automountServiceAccountToken"] is False)
    tokens = {volume["name"] for volume in pod["volumes"] if "projected" in volume}
    mounts = {container["name"]: {mount["name"] for mount in container["volumeMounts"]} for container in pod["containers"]}
    check("only control has the token", tokens and tokens <= mounts["control"] and not tokens & mounts["router"])
    check("both have the socket's directory", "run" in mounts["router"] & mounts["control"])
    for container in pod["containers"]:
        context = container["securityContext"]
        check("not privileged", not context.get("privileged"))
        check("no new privileges", context["allowPrivilegeEscalation"] is False)
        check("a root file system that is only read", context["readOnlyRootFilesystem"])
        check("all capabilities are dropped first", context["capabilities"]["drop"] == ["ALL"])
    check("the router's capabilities", router["securityContext"]["capabilities"]["add"] == CAPABILITIES)
    check("control has none", "add" not in control["securityContext"]["capabilities"])


def check_role(role):
    for rule in role["rules"]:
        for field in ("apiGroups", "resources", "verbs"):
            check(f"no wildcard in {role['metadata']['name']}", "*" not in rule[field])


def check_policies(definition, policies):
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for policy in policies:
        try:
            jsonschema.validate(policy, schema)
        except jsonschema.ValidationError as error:
            sys.exit(f"k8s/check.py: policy {policy['metadata']['name']}: {error.message}")


def main(rendered, definition, *policies):
    objects = load(rendered)
    by_kind = {}
    for one in objects:
        by_kind.setdefault(one["kind"], []).append(one)
    check_daemonset(by_kind["DaemonSet"][0]["spec"]["template"]["spec"])
    for role in by_kind["ClusterRole"]:
        check_role(role)
    check_policies(load(definition)[0], [policy for path in policies for policy in load(path)])


main(*sys.argv[1:])
