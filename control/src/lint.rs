//! Checks policies in files, without a cluster.

use serde::Serialize;
use serde_json::Value;

use crate::policy::{Fault, PRIORITY_ANNOTATION, Policy};

/// What was found in one policy of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Linted {
    /// The file.
    pub file: String,
    /// Which document of the file, from 1.
    pub document: usize,
    /// The policy's name; empty when it has none.
    pub policy: String,
    /// Why it is refused; empty when it is not.
    pub faults: Vec<Fault>,
    /// What has no effect, or another than one may think.
    pub warnings: Vec<Fault>,
}

/// Checks the policies in a file's text. Objects of other kinds are left out.
///
/// # Errors
///
/// When the text is no YAML.
pub fn lint(file: &str, text: &str) -> Result<Vec<Linted>, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| format!("{file}: {error}"))?;
    let lists = documents.into_iter().enumerate().flat_map(|(index, document)| {
        let items = document["items"].as_array().cloned();
        items.unwrap_or_else(|| vec![document]).into_iter().map(move |one| (index + 1, one))
    });
    let policies = lists.filter(|(_, one)| one["kind"] == "CiliumEgressGatewayPolicy");
    Ok(policies.map(|(document, one)| check(file, document, &one)).collect())
}

fn check(file: &str, document: usize, object: &Value) -> Linted {
    let metadata = &object["metadata"];
    let priority = &metadata["annotations"][PRIORITY_ANNOTATION];
    let mut faults = Vec::new();
    let fault = |field: &str, message: &str| Fault { field: field.into(), message: message.into() };
    if object["apiVersion"] != "cilium.io/v2" {
        faults.push(fault("apiVersion", "expected cilium.io/v2"));
    }
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        faults.push(fault("metadata.name", "required"));
    }
    if !metadata["namespace"].is_null() {
        faults.push(fault("metadata.namespace", "the policy is not in a namespace; remove it"));
    }
    if !priority.is_null() && !priority.is_string() {
        let field = format!("metadata.annotations[{PRIORITY_ANNOTATION}]");
        faults.push(fault(&field, "annotations are strings: put it in quotes"));
    }
    let mut warnings = Vec::new();
    match Policy::parse(priority.as_str(), &object["spec"]) {
        Ok(policy) => warnings = policy.warnings,
        Err(found) => faults.extend(found),
    }
    Linted { file: file.into(), document, policy: name.into(), faults, warnings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_and_warnings_name_their_field() {
        let text = "
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: wrong, namespace: default, annotations: {spillway.io/priority: high}}
spec:
  selectors:
  - nodeSelector: {matchLabels: {zone: a}}
  - podSelector: {matchExpressions: [{key: app, operator: Near}]}
  destinationCIDRs: [10.0.0.0/33, 'fd00::/129', '::ffff:10.0.0.0/104']
  egressGateway: {egressIP: 10.0.0.256}
---
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: doubtful}
spec:
  selectors:
  - podSelector: {}
    podSelecter: {}
  destinationCIDRs: [10.0.0.0/8, 'fd00::/8']
  egressGateway: {nodeSelector: {}}
";
        let found = lint("policies.yaml", text).unwrap();
        assert_eq!(found.len(), 2);
        let fields =
            |faults: &[Fault]| faults.iter().map(|fault| fault.field.clone()).collect::<Vec<_>>();
        assert_eq!(
            fields(&found[0].faults),
            [
                "metadata.namespace",
                "metadata.annotations[spillway.io/priority]",
                "spec.selectors[0]",
                "spec.selectors[1].podSelector.matchExpressions[0]",
                "spec.destinationCIDRs[0]",
                "spec.destinationCIDRs[1]",
                "spec.destinationCIDRs[2]",
                "spec.egressGateway.nodeSelector",
                "spec.egressGateway.egressIP",
            ]
        );
        assert_eq!((found[1].document, found[1].policy.as_str()), (3, "doubtful"));
        assert_eq!(found[1].faults, []);
        assert_eq!(fields(&found[1].warnings), ["spec.selectors[0].podSelecter"]);
    }

    #[test]
    fn a_wrong_type_is_named_too() {
        let text = "{apiVersion: cilium.io/v2, kind: CiliumEgressGatewayPolicy, \
                    metadata: {name: a}, spec: {destinationCIDRs: 10.0.0.0/8}}";
        let found = lint("-", text).unwrap();
        assert_eq!(found[0].faults[0].field, "spec.destinationCIDRs");
        assert!(lint("-", "{").is_err());
    }
}
