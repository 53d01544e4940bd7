//! `segue completions` and `segue man`: what the grammar of the command line says, for shells and for man(1).

use std::io::{IsTerminal, Write};
use std::process::{Command as Process, Stdio};

use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::Shell as Known;
use clap_mangen::Man;

use super::args::Cli;
use super::error::Trouble;
use super::output::Output;
use crate::exit::Exit;

const COMPLETIONS_HELP: &str = "\
Examples:
  segue completions bash > /etc/bash_completion.d/segue
  segue completions zsh  > /usr/local/share/zsh/site-functions/_segue
  segue completions fish > ~/.config/fish/completions/segue.fish";

const MAN_HELP: &str = "\
Examples:
  segue man                     on a terminal: shown by man(1)
  segue man run > segue-run.1   elsewhere: as man(1) reads it
  segue man import pm2";

#[derive(clap::Args, Debug)]
#[command(after_help = COMPLETIONS_HELP)]
pub(crate) struct CompletionsArgs {
    /// Whose completions
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(clap::Args, Debug)]
#[command(after_help = MAN_HELP)]
pub(crate) struct ManArgs {
    /// A command, with its second word if it has one [default: segue itself]
    #[arg(value_name = "COMMAND")]
    words: Vec<String>,
}

pub(super) async fn completions(args: CompletionsArgs, output: Output) -> Result<Exit, Trouble> {
    let script = script(args.shell);
    output.bytes(script.trim_ascii_end());
    Ok(Exit::Done)
}

fn script(shell: Shell) -> Vec<u8> {
    let shell = match shell {
        Shell::Bash => Known::Bash,
        Shell::Zsh => Known::Zsh,
        Shell::Fish => Known::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "segue", &mut script);
    script
}

pub(super) async fn man(args: ManArgs, output: Output) -> Result<Exit, Trouble> {
    let what = "cannot show the page";
    let page = page(&args.words).ok_or_else(|| {
        let why = format!("there is no command {}", args.words.join(" "));
        Trouble::new(what, why, "segue --help lists them", Exit::Usage)
    })?;
    if std::io::stdout().is_terminal() && show(&page) {
        return Ok(Exit::Done);
    }
    output.bytes(page.trim_ascii_end());
    Ok(Exit::Done)
}

/// As roff(7); `None` if there is no such command.
fn page(words: &[String]) -> Option<Vec<u8>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut found: &Command = &command;
    let mut name = "segue".to_owned();
    for word in words {
        found = found.find_subcommand(word).filter(|it| !it.is_hide_set())?;
        name = format!("{name}-{}", found.get_name());
    }
    let mut page = Vec::new();
    let found = found.clone().display_name(name);
    // A list of bytes takes all that is written to it.
    Man::new(found).render(&mut page).ok()?;
    Some(page)
}

/// Has man(1) show it; says whether it did.
fn show(page: &[u8]) -> bool {
    let child = Process::new("man")
        .args(["-l", "-"])
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return false };
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever leaves the page early has seen enough.
        let _ = stdin.write_all(page);
    }
    child.wait().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command that is shown, as words, and itself.
    fn commands() -> Vec<(Vec<String>, Command)> {
        fn walk(command: &Command, words: &[String], found: &mut Vec<(Vec<String>, Command)>) {
            found.push((words.to_vec(), command.clone()));
            for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
                let mut words = words.to_vec();
                words.push(below.get_name().to_owned());
                walk(below, &words, found);
            }
        }
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let mut found = Vec::new();
        walk(&command, &[], &mut found);
        found
    }

    fn flags(command: &Command) -> Vec<String> {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        shown
            .filter_map(|arg| arg.get_long().map(str::to_owned))
            .collect()
    }

    #[test]
    fn help_has_one_voice() {
        for (words, command) in commands() {
            let about = command.get_about().map(ToString::to_string);
            let flags = command.get_arguments().filter(|arg| !arg.is_hide_set());
            let helps = flags.map(|arg| arg.get_help().map(ToString::to_string));
            for help in std::iter::once(about).chain(helps) {
                let help = help.unwrap_or_else(|| panic!("{words:?}: something has no help"));
                let begins_well = help.starts_with(|c: char| c.is_uppercase() || c.is_numeric())
                    // What a value means, value by value.
                    || help.starts_with("spread: ");
                assert!(begins_well && !help.ends_with('.'), "{words:?}: {help}");
            }
        }
    }

    #[test]
    fn completions_have_every_command_and_flag() {
        let all = commands();
        assert!(all.len() > 20, "{}", all.len());
        for (shell, before) in [
            (Shell::Bash, "--"),
            (Shell::Zsh, "--"),
            (Shell::Fish, "-l "),
        ] {
            let script = String::from_utf8(script(shell)).unwrap();
            for (words, command) in &all {
                for word in words {
                    assert!(script.contains(word.as_str()), "{shell:?}: {word}");
                }
                for flag in flags(command) {
                    let flag = format!("{before}{flag}");
                    assert!(script.contains(&flag), "{shell:?}: {words:?} {flag}");
                }
            }
        }
    }

    #[test]
    fn pages_have_every_command_and_flag() {
        for (words, command) in commands() {
            let page = String::from_utf8(page(&words).unwrap()).unwrap();
            let page = page.replace('\\', "");
            let name = [&["segue".to_owned()], words.as_slice()].concat();
            assert!(page.contains(&name.join("-")), "{words:?}\n{page}");
            for flag in flags(&command) {
                assert!(page.contains(&format!("--{flag}")), "{words:?} {flag}");
            }
            for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
                assert!(page.contains(below.get_name()), "{words:?} {below}");
            }
        }
        assert_eq!(page(&["nonsense".to_owned()]), None);
        assert_eq!(page(&["hook".to_owned(), "run".to_owned()]), None);
    }
}
