"""The alerts and the dashboard, as check.sh and the tests need them.

check.py rules            the rules as a Prometheus without an operator reads them, as JSON
check.py check RENDERED   whether each alert has its runbook, and the dashboard holds together
"""

import json
import pathlib
import re
import sys

import yaml

HERE = pathlib.Path(__file__).parent
RUNBOOKS = "https://github.com/spillway/spillway/blob/main/k8s/monitoring/README.md#"
SEVERITIES = {"critical", "warning"}


def rules():
    return yaml.safe_load((HERE / "rules.yaml").read_text())["spec"]


def panels():
    for panel in json.loads((HERE / "dashboard.json").read_text())["panels"]:
        yield panel
        yield from panel.get("panels", [])


def check(what, holds):
    if not holds:
        sys.exit(f"k8s/monitoring/check.py: not so: {what}")


def check_alerts():
    text = (HERE / "README.md").read_text()
    runbooks = {title: body for title, body in re.findall(r"^### (\w+)\n(.*?)(?=^#|\Z)", text, re.M | re.S)}
    alerts = [rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule]
    names = [alert["alert"] for alert in alerts]
    check(f"the runbooks are those of the alerts, in their order: {names}", list(runbooks) == names)
    for alert in alerts:
        name, annotations = alert["alert"], alert["annotations"]
        check(f"{name} links its runbook", annotations["runbook_url"] == RUNBOOKS + name.lower())
        check(f"{name} says what it is about", annotations["summary"] and annotations["description"])
        check(f"{name} has a severity", alert["labels"]["severity"] in SEVERITIES)
        check(f"the runbook of {name} says what to do", len(runbooks[name].split()) > 20)
    tested = (HERE / "rules_test.yaml").read_text()
    for name in names:
        check(f"{name} fires in rules_test.yaml", f'alertname="{name}"' in tested)


def check_dashboard():
    seen = set()
    for panel in panels():
        title = panel["title"]
        check(f"there is one panel {panel['id']}", panel["id"] not in seen)
        seen.add(panel["id"])
        if panel["type"] == "row":
            continue
        check(f"panel {title} is described", panel.get("description"))
        check(f"panel {title} has a unit", panel["fieldConfig"]["defaults"].get("unit"))
        check(f"panel {title} asks the chosen data source", panel["datasource"]["uid"] == "${datasource}")
        for target in panel["targets"]:
            check(f"panel {title} shows the chosen gateways", 'instance=~"$instance"' in target["expr"])


def check_rendered(path):
    rendered = [one for one in yaml.safe_load_all(pathlib.Path(path).read_text()) if one]
    kinds = sorted(one["kind"] for one in rendered)
    check(f"rendered are a dashboard, a monitor and rules: {kinds}",
          kinds == ["ConfigMap", "PodMonitor", "PrometheusRule"])
    for one in rendered:
        check(f"{one['kind']} has our namespace", one["metadata"]["namespace"] == "spillway-system")


def main(command, *arguments):
    if command == "rules":
        json.dump(rules(), sys.stdout)
    else:
        check_alerts()
        check_dashboard()
        check_rendered(*arguments)


main(*sys.argv[1:])
