//! How many instructions the engine needs for each packet, counted by valgrind: the one figure that
//! does not depend on who else uses the machine. A committed budget keeps it from growing unnoticed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::engine::Case;

/// By how much a count may exceed its budget.
const TOLERANCE: f64 = 0.02;

/// What to count.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The budget to hold the counts against: a JSON file.
    #[arg(long, default_value = "bench/budget.json")]
    budget: PathBuf,
    /// Write the counts as the new budget.
    #[arg(long)]
    update: bool,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
    /// Run one case in this process: what valgrind is told to run.
    #[arg(long, hide = true)]
    case: Option<Case>,
}

/// The committed file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    /// The compiler that it was counted with: another one makes other instructions.
    compiler: String,
    instructions_per_packet: BTreeMap<Case, f64>,
}

#[derive(Debug, Serialize)]
struct Line {
    name: Case,
    instructions_per_packet: f64,
    budget: Option<f64>,
}

/// Counts, and holds the counts against the budget.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(case) = args.case {
        return case.run().map(drop);
    }
    let mut counts = BTreeMap::new();
    for case in Case::ALL {
        counts.insert(case, count(case)?);
    }
    if args.update {
        let rounded = counts.into_iter().map(|(case, count)| (case, (count * 10.0).round() / 10.0));
        let instructions_per_packet = rounded.collect();
        let budget = Budget { compiler: compiler()?, instructions_per_packet };
        let text = serde_json::to_string_pretty(&budget)? + "\n";
        return std::fs::write(&args.budget, text)
            .with_context(|| format!("cannot write {}", args.budget.display()));
    }
    let budget = read(&args.budget)?;
    let lines: Vec<_> = counts
        .into_iter()
        .map(|(name, instructions_per_packet)| Line {
            name,
            instructions_per_packet,
            budget: budget.instructions_per_packet.get(&name).copied(),
        })
        .collect();
    print(&lines, args.json)?;
    let over: Vec<_> = lines.iter().filter(|line| line.is_over()).map(|line| line.name).collect();
    if over.is_empty() {
        return Ok(());
    }
    let now = compiler()?;
    bail!(
        "{over:?} need more than {:.0} % above their budget in {}, which was counted with {}; this \
         is {now}. If that is what you want, or the compiler's doing: make bench-budget",
        TOLERANCE * 100.0,
        args.budget.display(),
        budget.compiler,
    )
}

impl Line {
    /// Also when nobody has said what it may need.
    fn is_over(&self) -> bool {
        self.budget.is_none_or(|most| self.instructions_per_packet > most * (1.0 + TOLERANCE))
    }
}

fn print(lines: &[Line], json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(lines)?)?);
    }
    writeln!(out, "{:<24} {:>12} {:>8}", "", "instructions", "budget")?;
    for line in lines {
        let Line { name, instructions_per_packet, budget } = line;
        let budget = budget.map_or("none".to_owned(), |most| format!("{most:.1}"));
        let mark = if line.is_over() { "  TOO MANY" } else { "" };
        let name = name.name();
        writeln!(out, "{name:<24} {instructions_per_packet:>12.1} {budget:>8}{mark}")?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Budget> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read the budget {}; run from the project's root", path.display())
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is no budget", path.display()))
}

fn compiler() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("cannot run rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Instructions per packet of one case, counted in a process of its own.
fn count(case: Case) -> Result<f64> {
    let this = std::env::current_exe()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // The functions of this name are all that is counted, and what they call.
        .arg("--toggle-collect=*counted_pass*")
        .arg(this)
        .args(["instructions", "--case", case.name()])
        .stdin(Stdio::null())
        .output()
        .context("cannot run valgrind; install it, or run `make bench-quick`, which does")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind, on {}: {said}", case.name());
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, instructions) =
        collected.with_context(|| format!("valgrind counted nothing: {said}"))?;
    let instructions: f64 = instructions.trim().parse().context("valgrind's count")?;
    ensure!(instructions > 0.0, "valgrind counted no instruction of {}", case.name());
    Ok(instructions / f64::from(case.packets()))
}
