"""What a reviewer would look at first in the manifests; called by check.sh.

check.py RENDERED POLICY_CRD POLICIES...
"""

import sys

import jsonschema
import yaml

CAPABILITIES = ["NET_ADMIN", "NET_RAW", "BPF", "PERFMON", "IPC_LOCK"]
CAPABLE = {"router", "preflight"}

# Container → volume → where, and whether it may be written. Only control has the token.
MOUNTS = {
    "router": {
        "config": ("/etc/spillway", False),
        "run": ("/run/spillway", True),
        "pins": ("/run/spillway/bpf", True),
    },
    "control": {
        "run": ("/run/spillway", False),
        "token": ("/var/run/secrets/kubernetes.io/serviceaccount", False),
    },
    "metrics": {
        "read-only": ("/run/spillway/read-only", False),
    },
}
# It runs before the router, with the same.
MOUNTS["preflight"] = MOUNTS["router"]
VOLUMES = {"config": "configMap", "run": "/run/spillway", "read-only": "/run/spillway/read-only",
           "pins": "/sys/fs/bpf/spillway", "token": "projected"}

# What anybody may do more than read; what nobody may read.
WRITABLE = {"spillwaypolicystatuses", "events", "customresourcedefinitions"}
UNREADABLE = {"secrets", "configmaps"}
READING = {"get", "list", "watch"}


def load(path):
    with open(path, encoding="utf-8") as file:
        return [document for document in yaml.safe_load_all(file) if document]


def check(what, holds):
    if not holds:
        sys.exit(f"k8s/check.py: not so: {what}")


def check_container(container, capabilities):
    name, context = container["name"], container.get("securityContext", {})
    given = context.get("capabilities", {})
    check(f"{name} is not privileged", not context.get("privileged"))
    check(f"{name} gets no new privileges", context.get("allowPrivilegeEscalation") is False)
    check(f"{name} only reads its root file system", context.get("readOnlyRootFilesystem") is True)
    check(f"{name} drops all capabilities first", given.get("drop") == ["ALL"])
    check(f"{name} adds the capabilities {capabilities}", given.get("add", []) == capabilities)


def check_daemonset(pod):
    check("no token is mounted by itself", pod.get("automountServiceAccountToken") is False)
    for field in ("hostPID", "hostIPC", "ephemeralContainers"):
        check(f"the pod has no {field}", not pod.get(field))
    sources = {volume["name"]: volume for volume in pod["volumes"]}
    found = {name: volume.get("hostPath", {}).get("path") or next(iter(volume.keys() - {"name"}))
             for name, volume in sources.items()}
    check(f"the volumes are {VOLUMES}", found == VOLUMES)
    containers = {one["name"]: one for one in pod["containers"] + pod["initContainers"]}
    check(f"the containers are {list(MOUNTS)}", list(containers) == list(MOUNTS))
    metrics = containers["metrics"]["securityContext"]
    check("metrics is not root", metrics["runAsNonRoot"] and metrics["runAsUser"] and metrics["runAsGroup"])
    check("the router can give it the read-only socket",
          pod["securityContext"]["supplementalGroups"] == [metrics["runAsGroup"]])
    for name, expected in MOUNTS.items():
        check_container(containers[name], CAPABILITIES if name in CAPABLE else [])
        mounts = {mount["name"]: (mount["mountPath"], not mount.get("readOnly", False))
                  for mount in containers[name]["volumeMounts"]}
        check(f"{name} mounts {expected}", mounts == expected)


def check_role(role):
    name = role["metadata"]["name"]
    for rule in role["rules"]:
        values = [value for field in rule.values() for value in field]
        check(f"no wildcard in {name}", not any("*" in value for value in values))
        resources = set(rule.get("resources", []))
        check(f"{name} reads none of {UNREADABLE}", not resources & UNREADABLE)
        if not set(rule["verbs"]) <= READING:
            check(f"{name} writes nothing but {WRITABLE}", resources <= WRITABLE)


def check_binding(binding, roles):
    name, role = binding["metadata"]["name"], binding["roleRef"]
    check(f"{name} gives a role of these manifests", (role["kind"], role["name"]) in roles)
    for subject in binding["subjects"]:
        whose = (subject["kind"], subject.get("namespace"))
        check(f"{name} gives it to a service account of ours", whose == ("ServiceAccount", "spillway-system"))


def closed(schema):
    """The schema without room for unknown fields: an API server removes them without a word."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        schema["additionalProperties"] = False
    return schema


def check_policies(definition, path):
    schema = closed(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    for policy in load(path):
        try:
            jsonschema.validate(policy, schema)
        except jsonschema.ValidationError as error:
            sys.exit(f"k8s/check.py: {path}: {policy['metadata']['name']}: {error.json_path}: {error.message}")


def pods(objects):
    return [one["spec"]["template"]["spec"] for one in objects if "template" in one.get("spec", {})]


def main(rendered, definition, *policies):
    objects = load(rendered)
    by_kind = {}
    for one in objects:
        by_kind.setdefault(one["kind"], []).append(one)
    check_daemonset(by_kind["DaemonSet"][0]["spec"]["template"]["spec"])
    # Not by Kustomize, which has no tests.
    for test in by_kind.get("Pod", []):
        check("the test's pod has no token", test["spec"].get("automountServiceAccountToken") is False)
        check_container(test["spec"]["containers"][0], [])
    for job in by_kind["Job"]:
        check_container(job["spec"]["template"]["spec"]["containers"][0], [])
    images = {container["image"] for pod in pods(objects)
              for container in pod["containers"] + pod.get("initContainers", [])}
    check(f"there is one image, found {images}", len(images) == 1)
    roles = {(role["kind"], role["metadata"]["name"]): role
             for kind in ("Role", "ClusterRole") for role in by_kind.get(kind, [])}
    for role in roles.values():
        check_role(role)
    for binding in by_kind.get("RoleBinding", []) + by_kind["ClusterRoleBinding"]:
        check_binding(binding, roles)
    for path in policies:
        check_policies(load(definition)[0], path)


main(*sys.argv[1:])
