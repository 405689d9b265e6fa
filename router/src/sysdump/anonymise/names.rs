//! Numbers in place of names, in answers of the router. Pure.

use std::collections::HashMap;

use serde_json::Value;

/// What stands where people's words may have names.
const REMOVED: &str = "(removed)";

/// Names of one kind, and their numbers in the order in which they came.
#[derive(Debug)]
struct Numbered {
    kind: &'static str,
    numbers: HashMap<String, usize>,
}

impl Numbered {
    fn new(kind: &'static str) -> Self {
        Self { kind, numbers: HashMap::new() }
    }

    fn replace(&mut self, name: &str) -> String {
        let next = self.numbers.len() + 1;
        let number = self.numbers.entry(name.to_owned()).or_insert(next);
        format!("{}-{number}", self.kind)
    }
}

/// The names that have been replaced, so that each is always the same.
#[derive(Debug)]
pub(crate) struct Names {
    namespaces: Numbered,
    pods: Numbered,
    policies: Numbered,
    groups: Numbered,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self {
            namespaces: Numbered::new("namespace"),
            pods: Numbered::new("pod"),
            policies: Numbered::new("policy"),
            groups: Numbered::new("group"),
        }
    }

    /// Replaces all names in an answer, or in a state document.
    pub(crate) fn replace(&mut self, answer: &mut Value) {
        self.walk("", answer);
    }

    /// Replaces the names in a value that is called `key`. What is called `name` is one of the list's that it
    /// is in.
    fn walk(&mut self, key: &str, value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(|value| self.walk(key, value)),
            Value::Object(fields) => {
                for (field, value) in fields {
                    self.walk(if field == "name" { key } else { field }, value);
                }
            }
            Value::String(text) if !text.is_empty() => match key {
                "pod" | "pod_names" => *text = self.pod(text),
                "policy" | "policies" => *text = self.policy(text),
                "pod_groups" => *text = self.groups.replace(text),
                // Why a document was refused: it has names that no other answer has.
                "message" => REMOVED.clone_into(text),
                _ => {}
            },
            _ => {}
        }
    }

    /// A pod's namespace and name.
    fn pod(&mut self, name: &str) -> String {
        let pod = self.pods.replace(name);
        match name.split_once('/') {
            Some((namespace, _)) => format!("{}/{pod}", self.namespaces.replace(namespace)),
            None => pod,
        }
    }

    /// A policy's name; a part of one that the control plane has split has a number behind it.
    fn policy(&mut self, name: &str) -> String {
        match name.split_once('#') {
            Some((policy, part)) => format!("{}#{part}", self.policies.replace(policy)),
            None => self.policies.replace(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_replaced_and_all_else_stays() {
        let mut names = Names::new();
        for (mut answer, expected) in [
            (
                json!([{"pod": "shop/a", "policy": "all", "state": "established"},
                       {"pod": null, "policy": ""}]),
                json!([{"pod": "namespace-1/pod-1", "policy": "policy-1", "state": "established"},
                       {"pod": null, "policy": ""}]),
            ),
            (
                json!({"policies": [{"name": "all#2", "pod_groups": ["g"], "pods": ["10.0.0.1"]}],
                       "pod_groups": [{"name": "g", "pods": []}],
                       "pod_names": [{"name": "shop/b", "addresses": []}, {"name": "bank/a"}]}),
                json!({"policies": [{"name": "policy-1#2", "pod_groups": ["group-1"],
                                     "pods": ["10.0.0.1"]}],
                       "pod_groups": [{"name": "group-1", "pods": []}],
                       "pod_names": [{"name": "namespace-1/pod-2", "addresses": []},
                                     {"name": "namespace-2/pod-3"}]}),
            ),
            (
                json!({"devices": [{"name": "eth0"}], "refused": {"message": "policies[0]: x"},
                       "programmed": {"policies": 3}, "reports": ["rule 100"]}),
                json!({"devices": [{"name": "eth0"}], "refused": {"message": "(removed)"},
                       "programmed": {"policies": 3}, "reports": ["rule 100"]}),
            ),
        ] {
            names.replace(&mut answer);
            assert_eq!(answer, expected);
        }
    }
}
