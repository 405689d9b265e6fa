//! `spillway completion`.

use clap::Command;
use clap_complete::Shell;

/// What a shell has to read to complete the command line.
pub(super) fn script(shell: Shell, mut command: Command) -> String {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, ValueEnum as _};

    use super::super::CommandLine;
    use super::*;

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let script = script(*shell, CommandLine::command());
            for command in CommandLine::command().get_subcommands().filter(|c| !c.is_hide_set()) {
                let name = command.get_name();
                assert!(script.contains(name), "{shell} does not complete `{name}`");
            }
            assert!(script.contains("may-fragment"), "{shell} does not complete options");
        }
    }

    #[test]
    fn bash_understands_its_script() {
        let script = script(Shell::Bash, CommandLine::command());
        let asked = "COMP_WORDS=(spillway tr) COMP_CWORD=1; _spillway spillway tr spillway; \
                     echo \"${COMPREPLY[@]}\"";
        let run = std::process::Command::new("bash")
            .args(["-c", &format!("{script}\n{asked}")])
            .output()
            .expect("bash is installed: run `make test`");
        let error = String::from_utf8_lossy(&run.stderr);
        assert_eq!(String::from_utf8_lossy(&run.stdout), "trace\n", "{error}");
    }
}
