//! `spillway drops`: what steering did with frames, and why the engine dropped packets.

use spillway_api::{Drops, Verdict};

use super::table::Align::{Left, Right};
use super::table::Table;

/// The counters for people; those that are zero only if `all` are wanted.
pub(super) fn table(drops: &Drops, all: bool) -> String {
    let mut text = String::from("Steering\n");
    append_or_say_none(&steering(drops, all), &mut text);
    text.push_str("\nEngine\n");
    append_or_say_none(&engine(drops, all), &mut text);
    text
}

fn append_or_say_none<const COLUMNS: usize>(table: &Table<COLUMNS>, text: &mut String) {
    if table.is_empty() {
        text.push_str("nothing counted yet\n");
    } else {
        table.append_to(text);
    }
}

fn steering(drops: &Drops, all: bool) -> Table<6> {
    let mut table = Table::new([
        ("Device", Left),
        ("Verdict", Left),
        ("Outcome", Left),
        ("Packets", Right),
        ("Bytes", Right),
        ("Description", Left),
    ]);
    for outcome in drops.steering.iter().filter(|outcome| all || outcome.packets > 0) {
        let verdict = match outcome.verdict {
            Verdict::Pass => "pass",
            Verdict::Steer => "steer",
            Verdict::Drop => "drop",
        };
        table.row([
            outcome.device.clone(),
            verdict.to_owned(),
            outcome.outcome.clone(),
            outcome.packets.to_string(),
            outcome.bytes.to_string(),
            outcome.description.clone(),
        ]);
    }
    table
}

fn engine(drops: &Drops, all: bool) -> Table<3> {
    let mut table = Table::new([("Reason", Left), ("Packets", Right), ("Description", Left)]);
    for drop in drops.engine.iter().filter(|drop| all || drop.packets > 0) {
        table.row([drop.reason.clone(), drop.packets.to_string(), drop.description.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use spillway_api::{EngineDrop, SteeringOutcome};

    use super::*;

    fn drops() -> Drops {
        let outcome = |outcome: &str, verdict, packets| SteeringOutcome {
            device: "eth0".to_owned(),
            outcome: outcome.to_owned(),
            verdict,
            packets,
            bytes: packets * 100,
            description: format!("About {outcome}."),
        };
        Drops {
            steering: vec![
                outcome("steered-tunnel", Verdict::Steer, 20),
                outcome("drop-unknown-peer", Verdict::Drop, 0),
            ],
            engine: vec![EngineDrop {
                reason: "no-route".to_owned(),
                packets: 0,
                description: "No route.".to_owned(),
            }],
        }
    }

    #[test]
    fn what_never_happened_is_left_out() {
        assert_eq!(
            table(&drops(), false),
            "Steering\n\
             Device   Verdict   Outcome          Packets   Bytes   Description\n\
             eth0     steer     steered-tunnel        20    2000   About steered-tunnel.\n\
             \n\
             Engine\n\
             nothing counted yet\n"
        );
    }

    #[test]
    fn all_of_it_is_shown_when_wanted() {
        assert_eq!(
            table(&drops(), true),
            "Steering\n\
             Device   Verdict   Outcome             Packets   Bytes   Description\n\
             eth0     steer     steered-tunnel           20    2000   About steered-tunnel.\n\
             eth0     drop      drop-unknown-peer         0       0   About drop-unknown-peer.\n\
             \n\
             Engine\n\
             Reason     Packets   Description\n\
             no-route         0   No route.\n"
        );
    }
}
