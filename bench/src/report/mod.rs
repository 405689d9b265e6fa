//! From the other commands' JSON to tables in Markdown and plots as SVG, each promise beside what
//! came of it. README.md beside this file says how to make them.

mod input;
mod machine;
mod markdown;
mod plots;
mod promises;
mod tables;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use input::Measured;
use machine::Machine;

/// What to report, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What `engine --json` printed.
    #[arg(long, value_name = "FILE")]
    engine: Option<PathBuf>,
    /// What `instructions --json` printed.
    #[arg(long, value_name = "FILE")]
    instructions: Option<PathBuf>,
    /// What `steering --json` printed.
    #[arg(long, value_name = "FILE")]
    steering: Option<PathBuf>,
    /// What `lab --json` printed.
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// A copy of /proc/stat from before the measuring: steal time counts from there on.
    #[arg(long, value_name = "FILE")]
    stat_before: Option<PathBuf>,
    /// Where to write results.md and the plots.
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
}

/// Reads what was measured on this machine, and writes the report.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut absent = Vec::new();
    let measured = Measured {
        engine: input::read("engine", args.engine.as_deref(), &mut absent)?,
        instructions: input::read("instructions", args.instructions.as_deref(), &mut absent)?,
        steering: input::read("steering", args.steering.as_deref(), &mut absent)?,
        lab: input::read("lab", args.lab.as_deref(), &mut absent)?,
    };
    ensure!(absent.len() < 4, "there is nothing to report: {}", absent.join("; "));
    let machine = Machine::here(args.stat_before.as_deref())?;
    let plots = plots::all(&measured)?;
    let text = results(&measured, &machine, &plots, &absent)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))?;
    let names = ["results.md"].into_iter().chain(plots.iter().map(|plot| plot.file));
    let texts = [&text].into_iter().chain(plots.iter().map(|plot| &plot.svg));
    let mut out = std::io::stdout().lock();
    for (name, text) in names.zip(texts) {
        let path = args.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}

/// The whole of results.md.
fn results(
    measured: &Measured,
    machine: &Machine,
    plots: &[plots::Plot],
    absent: &[String],
) -> Result<String> {
    let mut text = String::from(
        "# Results\n\nMade by `make bench`; do not edit. `../README.md` says what the numbers \
         are.\n",
    );
    text += &machine.section();
    for what in absent {
        text += &format!("\n**Not measured**: {what}.\n");
    }
    text += &promises::section(measured)?;
    for plot in plots {
        text += &format!("\n![{}]({})\n", plot.title, plot.file);
    }
    text += &tables::sections(measured);
    Ok(text)
}

/// How many lines of `lab --json` a text has, read as the report does.
#[cfg(test)]
pub(crate) fn lab_lines(json: &str) -> serde_json::Result<usize> {
    Ok(serde_json::from_str::<Vec<input::Lab>>(json)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The report of some files of a directory of its own.
    fn report(files: &[(&str, &str)]) -> Result<String> {
        let directory = tempfile::tempdir()?;
        let file = |name: &str| directory.path().join(name);
        for (name, text) in files {
            std::fs::write(file(name), text)?;
        }
        let args = Args {
            engine: Some(file("engine")),
            instructions: Some(file("instructions")),
            steering: None,
            lab: Some(file("lab")),
            stat_before: None,
            out: file("out/results"),
        };
        run(&args)?;
        Ok(std::fs::read_to_string(file("out/results/results.md"))?)
    }

    const INSTRUCTIONS: &str =
        r#"[{"name": "forward-udp", "instructions_per_packet": 239.5, "budget": 239.0}]"#;

    #[test]
    fn what_is_absent_is_said_to_be_so() {
        let text = report(&[("instructions", INSTRUCTIONS)]).unwrap();
        assert!(
            text.contains("| forward, 64,512 flows, instructions a packet | ≤ 240 | 240 | met |")
        );
        assert!(
            text.contains("**Not measured**: steering: no --steering FILE was given."),
            "{text}"
        );
        assert!(text.contains("**Not measured**: engine: there is no "), "{text}");
        assert!(text.contains("| forward, 1,000 flows, ns | ≤ 20 | – | not measured |"), "{text}");
        assert!(!text.contains(".svg"), "{text}");
    }

    #[test]
    fn a_report_of_nothing_fails() {
        let error = report(&[]).unwrap_err().to_string();
        assert!(error.starts_with("there is nothing to report: engine: there is no "), "{error}");
    }

    #[test]
    fn a_field_of_another_version_fails() {
        let text = INSTRUCTIONS.replace("budget", "allowance");
        let error = format!("{:#}", report(&[("instructions", &text)]).unwrap_err());
        assert!(
            error.contains("is not what this version's `instructions --json` prints"),
            "{error}"
        );
        assert!(error.contains("unknown field `allowance`"), "{error}");
    }
}
