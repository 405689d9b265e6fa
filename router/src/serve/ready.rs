//! Whether a gateway is ready to forward: what `/readyz` says. Pure.

use spillway_api::Status;

/// One thing that must hold, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    name: &'static str,
    problem: Option<String>,
}

/// What must hold of a router that has answered so. Of one that does not answer, nothing else is known.
pub(super) fn checks(answer: &anyhow::Result<Status>) -> Vec<Check> {
    match answer {
        Err(error) => vec![Check { name: "router", problem: Some(format!("{error:#}")) }],
        Ok(status) => vec![
            Check { name: "router", problem: None },
            Check { name: "document", problem: without_document(status) },
            Check { name: "devices", problem: without_program(status) },
            Check { name: "draining", problem: drained(status) },
        ],
    }
}

fn without_document(status: &Status) -> Option<String> {
    if status.generation.is_some() {
        return None;
    }
    Some(match &status.refused {
        Some(refused) => {
            format!("the document from {} was refused: {}", refused.source, refused.message)
        }
        None => {
            "no state document has come: start spillway-control, or `spillway apply` one".to_owned()
        }
    })
}

fn without_program(status: &Status) -> Option<String> {
    let without = status.devices.iter().filter(|device| !device.is_attached());
    let names: Vec<&str> = without.map(|device| device.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    Some(format!(
        "steering is not attached to {}: that happens with the first document; the router's log says \
         what went wrong",
        names.join(", ")
    ))
}

fn drained(status: &Status) -> Option<String> {
    let since = status.draining_s?;
    Some(format!("for {since} s no new flow has begun, until `spillway drain --undo`"))
}

/// What is said of `checks`, as Kubernetes' own `/readyz?verbose` has it, and whether all of them hold.
/// What is wrong is told in any case.
pub(super) fn told(name: &str, checks: &[Check], verbose: bool) -> (bool, String) {
    let holds = checks.iter().all(|check| check.problem.is_none());
    if holds && !verbose {
        return (true, "ok\n".to_owned());
    }
    let mut text = String::new();
    for Check { name, problem } in checks {
        match problem {
            None => text.push_str(&format!("[+]{name} ok\n")),
            Some(problem) => text.push_str(&format!("[-]{name} failed: {problem}\n")),
        }
    }
    let outcome = if holds { "passed" } else { "failed" };
    text.push_str(&format!("{name} check {outcome}\n"));
    (holds, text)
}

#[cfg(test)]
mod tests {
    use spillway_api::RefusedState;

    use super::*;
    use crate::serve::sample::status;

    fn said(answer: &anyhow::Result<Status>, verbose: bool) -> (bool, String) {
        told("readyz", &checks(answer), verbose)
    }

    #[test]
    fn a_programmed_router_is_ready() {
        assert_eq!(said(&Ok(status()), false), (true, "ok\n".to_owned()));
        let all =
            "[+]router ok\n[+]document ok\n[+]devices ok\n[+]draining ok\nreadyz check passed\n";
        assert_eq!(said(&Ok(status()), true), (true, all.to_owned()));
    }

    #[test]
    fn a_router_that_does_not_answer_is_not_ready_and_nothing_else_is_known() {
        let (ready, text) = said(&Err(anyhow::anyhow!("nobody listens")), false);
        assert!(!ready);
        assert_eq!(text, "[-]router failed: nobody listens\nreadyz check failed\n");
    }

    #[test]
    fn a_gateway_that_is_drained_is_not_ready() {
        let (ready, text) = said(&Ok(Status { draining_s: Some(7), ..status() }), false);
        assert!(!ready);
        assert!(text.contains("[-]draining failed: for 7 s no new flow has begun"), "{text}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut without = Status { generation: None, ..status() };
        without.devices[0].xdp_mode = spillway_api::Device::xdp_mode(None);
        let (ready, text) = said(&Ok(without.clone()), false);
        assert!(!ready);
        assert!(
            text.contains("[+]router ok\n[-]document failed: no state document has come"),
            "{text}"
        );
        assert!(text.contains("[-]devices failed: steering is not attached to eth0:"), "{text}");

        let (source, message) =
            ("socket".to_owned(), "line 3: policies: expected a list".to_owned());
        without.refused = Some(RefusedState { source, message, age_s: 1 });
        let (_, text) = said(&Ok(without), false);
        let refused =
            "document failed: the document from socket was refused: line 3: policies: expected";
        assert!(text.contains(refused), "{text}");
    }
}
