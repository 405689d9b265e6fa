//! The plots: what a reader wants to see at once.

mod canvas;
mod engine;
mod lab;
mod ports;
mod steering;

use anyhow::Result;

use super::input::Measured;

/// A picture, and the name of its file.
pub(super) struct Plot {
    pub(super) file: &'static str,
    pub(super) title: &'static str,
    pub(super) svg: String,
}

/// All of which there is something to show.
pub(super) fn all(measured: &Measured) -> Result<Vec<Plot>> {
    let plots = [
        engine::plot(measured)?,
        ports::plot(measured)?,
        steering::plot(measured)?,
        lab::plot(measured)?,
    ];
    Ok(plots.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_is_nothing_to_see() {
        assert!(all(&Measured::default()).unwrap().is_empty());
    }

    #[test]
    fn bars_say_what_they_are_and_how_much() {
        let lab = serde_json::json!({
            "name": "lab", "system": "kernel", "metric": "loss_free_pps", "direction": "reply",
            "size": "1518", "median": 330e3, "min": 300e3, "max": 350e3, "rounds": 3,
        });
        let quarters = serde_json::json!({"low": 65.0, "median": 77.7, "high": 80.0});
        let steering = serde_json::json!({
            "name": "steering", "frame": "steered, a reply", "outcome": "steer-reply",
            "pods": 10_000, "sets": 1, "cidrs_per_set": 2, "distinct_frames": 4096,
            "ns_per_frame": quarters, "ns_without": quarters, "samples": 3,
        });
        let measured = Measured {
            lab: vec![serde_json::from_value(lab).unwrap()],
            steering: vec![serde_json::from_value(steering).unwrap()],
            ..Measured::default()
        };
        let plots = all(&measured).unwrap();
        assert_eq!(
            plots.iter().map(|plot| plot.file).collect::<Vec<_>>(),
            ["steering.svg", "lab.svg"]
        );
        for (plot, text) in [
            (0, "steered, a reply: 10,000 × 1 × 2"),
            (0, "77.7"),
            (0, "4,096 different frames"),
            (1, "reply 1518"),
            (1, "0.33"),
            (1, "the kernel: VXLAN"),
        ] {
            assert!(plots[plot].svg.contains(text), "{text}: {}", plots[plot].svg);
        }
    }
}
