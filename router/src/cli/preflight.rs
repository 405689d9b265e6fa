//! `spillway preflight`: what is wrong on this host before the router runs on it.

use std::path::Path;

use serde::Serialize;

use super::Output;
use super::table::Align::Left;
use super::table::Table;
use crate::config::Config;
use crate::preflight::{self, Check, Outcome};

/// All checks, as machines read them.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether no check has failed.
    passed: bool,
    checks: Vec<Check>,
}

/// Shows all checks.
///
/// # Errors
/// When the configuration cannot be used, or a check has failed and this is more than `advice`.
pub(super) fn preflight(config: Option<&Path>, output: Output, advice: bool) -> anyhow::Result<()> {
    let config = match config {
        Some(path) => Config::load(path)?,
        None => preflight::assumed_config()?,
    };
    let checks = preflight::preflight(&config);
    let failed = checks.iter().filter(|check| check.result == Outcome::Fail).count();
    let report = Report { passed: failed == 0, checks };
    output.show(&report, |report| table(&report.checks))?;
    let all = report.checks.len();
    anyhow::ensure!(
        advice || failed == 0,
        "{failed} of {all} checks have failed: the router would not work"
    );
    Ok(())
}

/// The checks for people.
fn table(checks: &[Check]) -> String {
    let columns = ["Result", "Where", "Check", "Seen", "What to do"];
    let mut table = Table::new(columns.map(|column| (column, Left)));
    for Check { result, device, check, seen, remedy } in checks {
        table.row([
            result.name().to_owned(),
            device.clone().unwrap_or_else(|| "host".to_owned()),
            (*check).to_owned(),
            seen.clone(),
            remedy.clone().unwrap_or_default(),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::ok("kernel", "6.18.2"),
            Check::fail("queues", "4", "`queues: 4` in the configuration").on("eth0"),
        ]
    }

    #[test]
    fn each_check_is_a_line_with_what_to_do() {
        assert_eq!(
            table(&checks()),
            "Result   Where   Check    Seen     What to do\n\
             OK       host    kernel   6.18.2\n\
             FAIL     eth0    queues   4        `queues: 4` in the configuration\n"
        );
    }

    #[test]
    fn machines_read_the_same() {
        let report = serde_json::to_value(Report { passed: false, checks: checks() }).unwrap();
        let expected = serde_json::json!({
            "passed": false,
            "checks": [
                {
                    "result": "ok", "device": null, "check": "kernel", "seen": "6.18.2",
                    "remedy": null,
                },
                {
                    "result": "fail", "device": "eth0", "check": "queues", "seen": "4",
                    "remedy": "`queues: 4` in the configuration",
                },
            ],
        });
        assert_eq!(report, expected);
    }
}
