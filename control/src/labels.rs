//! Label selectors as Kubernetes has them, and the special keys that Cilium adds for pods.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// What a label key stands for. Pods have more to select by than their own labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A label of the object.
    Label(String),
    /// A label of the pod's namespace, `io.cilium.k8s.namespace.labels.…`.
    NamespaceLabel(String),
    /// The name of the pod's namespace, `io.kubernetes.pod.namespace`.
    Namespace,
    /// The pod's service account, `io.cilium.k8s.policy.serviceaccount`.
    ServiceAccount,
}

/// A `LabelSelector`, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelectorSpec {
    #[serde(default)]
    match_labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    match_expressions: Option<Vec<ExpressionSpec>>,
}

#[derive(Clone, Debug, Deserialize)]
struct ExpressionSpec {
    key: String,
    operator: String,
    #[serde(default)]
    values: Option<Vec<String>>,
}

/// A selector that can be asked. Without requirements it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: Key,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Understands a selector; `key` says what a key stands for.
    ///
    /// # Errors
    ///
    /// The field below the selector, and what is wrong with it.
    pub fn new(spec: &SelectorSpec, key: fn(&str) -> Key) -> Result<Self, (String, String)> {
        let labels = spec.match_labels.iter().flatten().map(|(name, value)| Requirement {
            key: key(name),
            operator: Operator::In([value.clone()].into()),
        });
        let mut requirements: Vec<_> = labels.collect();
        for (index, expression) in spec.match_expressions.iter().flatten().enumerate() {
            let operator = expression
                .operator()
                .map_err(|message| (format!("matchExpressions[{index}]"), message))?;
            requirements.push(Requirement { key: key(&expression.key), operator });
        }
        Ok(Self { requirements })
    }

    /// Whether every requirement holds; `value` gives the value of a key, if there is one.
    pub fn matches<'a>(&self, value: impl Fn(&Key) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = value(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => !value.is_some_and(|value| values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }

    /// Whether the labels of an object match, one without special keys.
    #[must_use]
    pub fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches(|key| match key {
            Key::Label(name) => labels.get(name).map(String::as_str),
            Key::NamespaceLabel(_) | Key::Namespace | Key::ServiceAccount => None,
        })
    }
}

impl ExpressionSpec {
    fn operator(&self) -> Result<Operator, String> {
        let values: BTreeSet<String> = self.values.iter().flatten().cloned().collect();
        let (operator, needs_values) = match self.operator.as_str() {
            "In" => (Operator::In(values), true),
            "NotIn" => (Operator::NotIn(values), true),
            "Exists" => (Operator::Exists, false),
            "DoesNotExist" => (Operator::DoesNotExist, false),
            other => {
                return Err(format!(
                    "operator {other:?} is unknown; expected In, NotIn, Exists or DoesNotExist"
                ));
            }
        };
        match (needs_values, self.values.as_ref().is_some_and(|values| !values.is_empty())) {
            (true, false) => Err(format!("operator {} needs values", self.operator)),
            (false, true) => Err(format!("operator {} takes no values", self.operator)),
            _ => Ok(operator),
        }
    }
}

/// What a key in a `podSelector` stands for. Cilium lets a source stand in front of it.
#[must_use]
pub fn pod_key(key: &str) -> Key {
    const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
    let sources = ["k8s:", "any:", "k8s.", "any."];
    let key = sources.iter().find_map(|source| key.strip_prefix(source)).unwrap_or(key);
    match key {
        "io.kubernetes.pod.namespace" => Key::Namespace,
        "io.cilium.k8s.policy.serviceaccount" => Key::ServiceAccount,
        _ => match key.strip_prefix(NAMESPACE_LABELS) {
            Some(label) => Key::NamespaceLabel(label.to_owned()),
            None => Key::Label(key.to_owned()),
        },
    }
}

/// What a key in a `namespaceSelector` stands for: a label of the namespace.
#[must_use]
pub fn namespace_key(key: &str) -> Key {
    match pod_key(key) {
        Key::Label(label) => Key::NamespaceLabel(label),
        special => special,
    }
}

/// What a key in a `nodeSelector` stands for: a label of the node, whatever it is called.
#[must_use]
pub fn node_key(key: &str) -> Key {
    Key::Label(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(yaml: &str) -> Selector {
        Selector::new(&serde_saphyr::from_str(yaml).unwrap(), node_key).unwrap()
    }

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn every_operator_selects_as_kubernetes_does() {
        let web = labels(&[("app", "web"), ("tier", "front")]);
        let none = labels(&[]);
        for (yaml, of_web, of_none) in [
            ("{}", true, true),
            ("{matchLabels: {app: web}}", true, false),
            ("{matchLabels: {app: web, tier: back}}", false, false),
            ("{matchExpressions: [{key: app, operator: In, values: [db, web]}]}", true, false),
            ("{matchExpressions: [{key: app, operator: NotIn, values: [web]}]}", false, true),
            ("{matchExpressions: [{key: app, operator: Exists}]}", true, false),
            ("{matchExpressions: [{key: app, operator: DoesNotExist}]}", false, true),
        ] {
            assert_eq!(selector(yaml).matches_labels(&web), of_web, "{yaml}");
            assert_eq!(selector(yaml).matches_labels(&none), of_none, "{yaml}");
        }
    }

    #[test]
    fn what_no_api_server_accepts_is_refused() {
        for (expression, message) in [
            ("{key: a, operator: Near}", "operator \"Near\" is unknown"),
            ("{key: a, operator: In}", "operator In needs values"),
            ("{key: a, operator: Exists, values: [b]}", "operator Exists takes no values"),
        ] {
            let yaml =
                format!("{{matchExpressions: [{{key: a, operator: Exists}}, {expression}]}}");
            let spec = serde_saphyr::from_str(&yaml).unwrap();
            let (field, said) = Selector::new(&spec, node_key).unwrap_err();
            assert_eq!(field, "matchExpressions[1]");
            assert!(said.contains(message), "{said}");
        }
    }

    #[test]
    fn ciliums_special_keys_are_known() {
        assert_eq!(pod_key("io.kubernetes.pod.namespace"), Key::Namespace);
        assert_eq!(pod_key("k8s:io.kubernetes.pod.namespace"), Key::Namespace);
        assert_eq!(pod_key("io.cilium.k8s.policy.serviceaccount"), Key::ServiceAccount);
        let team = pod_key("io.cilium.k8s.namespace.labels.team");
        assert_eq!(team, Key::NamespaceLabel("team".into()));
        assert_eq!(namespace_key("team"), team);
        assert_eq!(pod_key("any:app"), Key::Label("app".into()));
    }
}
