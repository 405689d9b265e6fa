"""Writes CRDS.md from crds/. With --check it writes nothing, and fails where they differ.

reference.py [--check]
"""

import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
FILE = HERE / "CRDS.md"

HEAD = """# Custom resources

Generated from [`crds/`](crds) by `make reference`; do not edit. What a policy means, and what the conditions
say, is in [control](../control/README.md#what-a-policy-means); [example-policy.yaml](example-policy.yaml) is
one to start from.
"""

# Fields of labels that every user of Kubernetes knows.
KNOWN = {"matchLabels", "matchExpressions"}


def fields(schema, path=""):
    """Path, schema and whether it is required, of each field, in the order of the definition."""
    required = set(schema.get("required", []))
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, field, name in required
        inner = field.get("items", {}) if field["type"] == "array" else field
        if not KNOWN & set(inner.get("properties", {})):
            yield from fields(inner, here + ("[]" if field["type"] == "array" else ""))


def type_of(field):
    if field["type"] == "array":
        return f"list of {type_of(field['items'])}"
    if KNOWN & set(field.get("properties", {})):
        return "label selector"
    return field.get("format", field["type"])


def words(field):
    """What the definition says of a field: its description, and what is accepted."""
    said = [field.get("description") or field.get("items", {}).get("description", "")]
    if "enum" in field:
        said.append("One of " + ", ".join(f"`{one}`" for one in field["enum"]) + ".")
    for key, text in [("maxItems", "At most {} of them."), ("maxLength", "At most {} characters.")]:
        if key in field:
            said.append(text.format(field[key]))
    return " ".join(one for one in said if one).replace("|", "\\|")


def section(definition):
    spec = definition["spec"]
    names = spec["names"]
    lines = [f"\n## {names['kind']}\n"]
    for version in spec["versions"]:
        short = ", ".join(f"`kubectl get {one}`" for one in names.get("shortNames", []))
        lines.append(f"`{spec['group']}/{version['name']}`, {spec['scope'].lower()}-scoped; {short}.\n")
        lines += ["| field | type | required | what it is |", "|---|---|---|---|"]
        for path, field, required in fields(version["schema"]["openAPIV3Schema"]):
            if path in ("apiVersion", "kind", "metadata"):
                continue
            yes = "yes" if required else ""
            lines.append(f"| `{path}` | {type_of(field)} | {yes} | {words(field)} |")
        columns = ", ".join(one["name"] for one in version["additionalPrinterColumns"])
        lines.append(f"\nColumns of `kubectl get`: Name, {columns}.")
    return "\n".join(lines) + "\n"


def main():
    files = sorted((HERE / "crds").glob("*.yaml"))
    text = HEAD + "".join(section(yaml.safe_load(path.read_text())) for path in files)
    if sys.argv[1:] == ["--check"]:
        if not FILE.exists() or FILE.read_text() != text:
            sys.exit("k8s/CRDS.md is not what k8s/crds says: run `make reference`, and commit it")
        print(f"reference: {FILE.name} is what {len(files)} definitions say")
    else:
        FILE.write_text(text)


main()
