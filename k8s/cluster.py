"""Installs, upgrades and removes Spillway in an API server; called by cluster.sh, with one."""

import json
import os
import subprocess
import sys
import threading
import time

import helm_python as helm
import yaml

from chart_values import every_value, nested
from render import CHART, HERE, NAMESPACE, RELEASE, manifests, render

OURS = "spillwaypolicystatuses.spillway.io"
CILIUMS = "ciliumegressgatewaypolicies.cilium.io"
BUDGET = "poddisruptionbudgets"

# What each account may and may not do: verb, resource, namespace.
MAY = {
    "spillway-control": [
        ("list", "pods", "default"),
        ("watch", "ciliumegressgatewaypolicies.cilium.io", None),
        ("patch", OURS, None),
        ("create", "events.events.k8s.io", "default"),
    ],
}
MAY_NOT = {
    "spillway-control": [
        ("get", "secrets", NAMESPACE),
        ("get", "configmaps", NAMESPACE),
        ("create", "customresourcedefinitions", None),
        ("patch", f"customresourcedefinitions/{OURS}", None),
        ("patch", "ciliumegressgatewaypolicies.cilium.io", None),
        ("patch", "daemonsets.apps", NAMESPACE),
        ("create", "pods", NAMESPACE),
        ("list", "endpoints", "default"),
    ],
}

checks = 0


def check(what, holds):
    global checks
    if not holds:
        sys.exit(f"k8s/cluster.py: not so: {what}")
    checks += 1


def run(*arguments, text=None):
    """kubectl; what it said comes back, whether it succeeded or not."""
    command = ["kubectl", *arguments]
    return subprocess.run(command, input=text, text=True, capture_output=True, check=False)


def kubectl(*arguments, text=None):
    done = run(*arguments, text=text)
    if done.returncode:
        sys.exit(f"k8s/cluster.py: kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def get(kind, name, namespace=NAMESPACE):
    return json.loads(kubectl("get", kind, name, "--namespace", namespace, "--output", "json"))


def exists(kind, name, namespace=NAMESPACE):
    where = ["--namespace", namespace, "--ignore-not-found", "--output", "name"]
    return bool(kubectl("get", kind, name, *where))


def may(account, verb, resource, namespace):
    where = ["--namespace", namespace] if namespace else ["--all-namespaces"]
    user = f"system:serviceaccount:{NAMESPACE}:{account}"
    return run("auth", "can-i", verb, resource, *where, "--as", user).stdout.strip() == "yes"


# --- the job that brings the definitions -----------------------------------------------------


def definition(name):
    """The file of one."""
    return str(HERE / "crds" / f"{name.partition('.')[0]}.yaml")


def bring_definitions(account):
    """Does what `spillway-control crds install` does, as the job's account."""
    as_account = ["--as", f"system:serviceaccount:{NAMESPACE}:{account}"]
    created = run("create", "--filename", definition(CILIUMS), *as_account)
    check(f"Cilium's definition is created or there: {created.stderr}",
          created.returncode == 0 or "AlreadyExists" in created.stderr)
    server_side = ["--server-side", "--force-conflicts"]
    kubectl("apply", *server_side, "--filename", definition(OURS), *as_account)
    # As long as the account is there.
    for name, patched in ((OURS, True), (CILIUMS, False)):
        found = may(account, "patch", f"customresourcedefinitions/{name}", None)
        check(f"whether {account} may patch {name}: {patched}", found == patched)


def end(name, succeeds):
    """Tells how a job has ended, as the job controller does."""
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{name}"
    job = json.loads(kubectl("get", "--raw", path))
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    # Newer servers ask for the first of each.
    kinds = ("SuccessCriteriaMet", "Complete") if succeeds else ("FailureTarget", "Failed")
    conditions = [{"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now}
                  for kind in kinds]
    counted = {"succeeded": 1, "completionTime": now} if succeeds else {"failed": 1}
    job["status"] = {"startTime": now, "conditions": conditions} | counted
    kubectl("replace", "--raw", f"{path}/status", "--filename", "-", text=json.dumps(job))


class Job:
    """Carries out the next job, as a cluster with nodes would, in the background."""

    def __init__(self, succeeds=True):
        self.succeeds = succeeds

    def __enter__(self):
        self.failure = "k8s/cluster.py: no job has come"
        self.before = kubectl("get", "jobs", "--namespace", NAMESPACE, "--output",
                              "jsonpath={.items[*].metadata.uid}").split()
        line = "{.metadata.uid} {.metadata.name} {.spec.template.spec.serviceAccountName}"
        self.watch = subprocess.Popen(
            ["kubectl", "get", "jobs", "--namespace", NAMESPACE, "--watch", "--output",
             f'jsonpath={line}{{"\\n"}}'], stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.carry_out, daemon=True)
        self.thread.start()

    def carry_out(self):
        jobs = (line.split() for line in self.watch.stdout)
        found = next((rest for uid, *rest in jobs if uid not in self.before), None)
        if not found:
            return
        name, account = found
        try:
            if self.succeeds:
                bring_definitions(account)
            end(name, self.succeeds)
            self.failure = None
        # In a thread it would end that alone.
        except SystemExit as failure:
            self.failure = failure

    def __exit__(self, _kind, error, _trace):
        self.watch.terminate()
        self.watch.wait()
        self.thread.join()
        if self.failure:
            sys.exit(f"{self.failure}; Helm's error: {error}")


# --- the story -------------------------------------------------------------------------------


def applied_by_kustomize(has_budget):
    """The way without Helm, twice."""
    text = kubectl("kustomize", str(HERE))
    if not has_budget:
        text = text.replace("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n")
    kubectl("apply", "--filename", "-", text=text)
    kubectl("apply", "--filename", "-", text=text)
    generation = get("daemonset", RELEASE)["metadata"]["generation"]
    check(f"applied again, the DaemonSet does not change, found {generation}", generation == 1)
    return text


def dry_run(has_budget):
    """Everything that the chart renders is what the API server takes."""
    # The ServiceMonitor beside the Service is the operator's matter, which is not here.
    service = render(nested("metrics.serviceMonitor.enabled", True))["service.yaml"]
    for text in (manifests({}), manifests(every_value()), service):
        if not has_budget:
            text = text.replace("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n")
        said = kubectl("apply", "--dry-run=server", "--filename", "-", text=text)
        count = sum(1 for one in yaml.safe_load_all(text) if one)
        check(f"the API server takes all {count}: {said}", said.count("(server dry run)") == count)


def check_rights():
    for account, rights in MAY.items():
        for right in rights:
            check(f"{account} may {right}", may(account, *right))
    for account, rights in MAY_NOT.items():
        for right in rights:
            check(f"{account} may not {right}", not may(account, *right))


def check_hook_gone():
    for kind in ("serviceaccount", "clusterrole", "clusterrolebinding", "job"):
        check(f"nothing is left of the hook's {kind}", not exists(kind, f"{RELEASE}-crds"))


def installed(config, values):
    with Job():
        release = config.install(CHART, RELEASE, values, timeout=60)
    check(f"installed: {release['status']}", release["status"] == "deployed")
    check_hook_gone()
    check("Cilium's definition is there", exists("crd", CILIUMS))
    check_rights()
    return release


def upgraded(config, values):
    """Other values; meanwhile the definitions are somebody's, and of an older version."""
    kubectl("annotate", "crd", CILIUMS, "example.com/mine=yes")
    patch = '[{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns"}]'
    kubectl("patch", "crd", OURS, "--type", "json", "--patch", patch)
    ciliums, before = get("crd", CILIUMS), get("daemonset", RELEASE)
    with Job():
        release = config.upgrade(CHART, RELEASE, values, timeout=60)
    found = release["status"], release["revision"]
    # The second has failed.
    check(f"upgraded: {found}", found == ("deployed", 3))
    check_hook_gone()
    found = get("crd", CILIUMS)["metadata"]
    check("Cilium's definition is as it was", found == ciliums["metadata"])
    columns = get("crd", OURS)["spec"]["versions"][0]["additionalPrinterColumns"]
    check("ours is up to date again", "Accepted" in [one["name"] for one in columns])
    after = get("daemonset", RELEASE)
    check("the DaemonSet is the same, changed",
          after["metadata"]["uid"] == before["metadata"]["uid"]
          and after["metadata"]["generation"] == before["metadata"]["generation"] + 1)
    annotations = [one["spec"]["template"]["metadata"]["annotations"] for one in (before, after)]
    check("the configuration's change starts the routers anew",
          annotations[0]["checksum/config"] != annotations[1]["checksum/config"])
    return release


def not_upgraded(config, values):
    """The definitions cannot be brought: nothing else is changed, and what failed stays."""
    before = get("daemonset", RELEASE)
    try:
        with Job(succeeds=False):
            config.upgrade(CHART, RELEASE, values, timeout=60)
    except helm.HelmError as error:
        check(f"Helm says what failed: {error}", "pre-upgrade" in str(error))
    else:
        check("an upgrade whose job fails, fails", False)
    check("the DaemonSet is as it was", get("daemonset", RELEASE) == before)
    check("the job is there to be looked at", exists("job", f"{RELEASE}-crds"))


def drained(config, values):
    """The handler before the end is another one, and back again: it is never taken away."""
    for seconds in (300, 0, 60):
        with Job():
            release = config.upgrade(CHART, RELEASE, values | nested("router.drainSeconds", seconds), timeout=60)
        check(f"upgraded to {seconds}: {release['status']}", release["status"] == "deployed")
        pod = get("daemonset", RELEASE)["spec"]["template"]["spec"]
        commands = [one["lifecycle"]["preStop"]["exec"]["command"] for one in pod["containers"]]
        check(f"with {seconds} found {commands}", all(("drain" in words) == (seconds > 0) for words in commands))
        grace = pod["terminationGracePeriodSeconds"]
        check(f"there is time for {seconds} seconds: {grace}", grace == seconds + 10)


def rolled_back(config, before):
    """Back to the first release: the definitions stay as they are."""
    definitions = get("crd", OURS), get("crd", CILIUMS)
    config.rollback(RELEASE, version=1, timeout=60)
    after = get("daemonset", RELEASE)
    check("the DaemonSet is as it was at first", after["spec"] == before["spec"])
    check("the definitions stay", (get("crd", OURS), get("crd", CILIUMS)) == definitions)


def uninstalled(config, release):
    config.uninstall(RELEASE, wait="watcher", timeout=60)
    for one in yaml.safe_load_all(release["manifest"]):
        metadata = one["metadata"]
        gone = not exists(one["kind"], metadata["name"], metadata.get("namespace", NAMESPACE))
        check(f"{one['kind']} {metadata['name']} is gone", gone)
    for name in (OURS, CILIUMS):
        check(f"the definition {name} stays", exists("crd", name))


def main():
    version = kubectl("version", "--output", "json")
    version = json.loads(version)["serverVersion"]["gitVersion"]
    has_budget = "policy/v1" in kubectl("api-versions").split()
    if not has_budget:
        print(f"cluster: {version} has no policy/v1: the disruption budget is tried as "
              "policy/v1beta1, and not by Helm")
    budget = {} if has_budget else {"podDisruptionBudget": {"enabled": False}}

    kubectl("apply", "--filename", str(HERE / "base/namespace.yaml"))
    dry_run(has_budget)
    text = applied_by_kustomize(has_budget)
    # What the README says of moving from the one way to the other.
    moved = ["rbac", "crds-job", "daemonset"]
    kubectl("delete", *(f"--filename={HERE}/base/{name}.yaml" for name in moved))
    kubectl("delete", BUDGET, RELEASE, "--namespace", NAMESPACE)
    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=NAMESPACE) as config:
        values = every_value() | budget
        installed(config, budget)
        first = get("daemonset", RELEASE)
        not_upgraded(config, values)
        release = upgraded(config, values)
        drained(config, budget)
        rolled_back(config, first)
        uninstalled(config, release)
    kubectl("delete", "--ignore-not-found", "--wait=false", "--filename", "-", text=text)
    print(f"cluster: {checks} checks with Kubernetes {version} and Helm {helm.helm_sdk_version()}")


main()
