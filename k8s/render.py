"""Renders base/ from the chart. With --check it writes nothing, and fails where they differ.

render.py [--check]
"""

import difflib
import sys
from pathlib import Path

import helm_python as helm
import yaml

HERE = Path(__file__).resolve().parent
CHART = HERE / "chart"
BASE = HERE / "base"
RELEASE, NAMESPACE = "spillway", "spillway-system"

HEADER = "# Rendered from ../chart by `make manifests-render`: change it there.\n"
# Helm makes the namespace itself, before anything is rendered.
BY_HAND = {"namespace.yaml"}


def render(values, release=RELEASE, namespace=NAMESPACE):
    """File → what Helm renders of it, with these values over the chart's own. Notes too."""
    with helm.Chart.load(CHART) as chart:
        rendered = chart.render(values, name=release, namespace=namespace)
    return {Path(path).name: text for path, text in rendered.items() if text.strip()}


def manifests(values, release=RELEASE, namespace=NAMESPACE):
    """What `helm template` prints: one text, with the hooks."""
    files = render(values, release, namespace)
    return "\n---\n".join(text for name, text in sorted(files.items()) if name.endswith(".yaml"))


def base():
    """File → what base/ shall have there."""
    files = render({"kustomize": True})
    del files["NOTES.txt"]
    # Kustomize makes the object from the file, to change its name with the content.
    config = yaml.safe_load(files.pop("config.yaml"))["data"]["config.yaml"]
    expected = {name: HEADER + text.strip() + "\n" for name, text in files.items()}
    return expected | {"config.yaml": config}


def differences(expected):
    """The lines that differ, as diff(1) has them."""
    found = {path.name: path.read_text() for path in BASE.iterdir() if path.name not in BY_HAND}
    return [
        line
        for name in sorted(expected.keys() | found.keys())
        for line in difflib.unified_diff(
            found.get(name, "").splitlines(), expected.get(name, "").splitlines(),
            f"base/{name}", f"base/{name} as the chart renders it", lineterm="")
    ]


def write(expected):
    """Makes base/ what it shall be."""
    for path in BASE.iterdir():
        if path.name not in expected.keys() | BY_HAND:
            path.unlink()
    for name, text in expected.items():
        (BASE / name).write_text(text)


def main(arguments):
    if arguments == ["--check"]:
        lines = differences(base())
        if lines:
            sys.exit("\n".join(lines) + "\nk8s/base is not what k8s/chart renders: "
                     "run `make manifests-render` and commit what it writes")
    elif arguments:
        sys.exit(__doc__)
    else:
        write(base())


if __name__ == "__main__":
    main(sys.argv[1:])
