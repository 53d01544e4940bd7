//! The settings of a command line: a flag for each line of the table of keys.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};

use super::args::invalid;
use crate::config::keys::KEYS;
use crate::config::settings::AppSettings;
use crate::config::written::Written;

/// The settings of a command line: what they come to, and as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) settings: AppSettings,
    pub(crate) written: Written,
}

impl Args for Given {
    fn augment_args(command: clap::Command) -> clap::Command {
        KEYS.iter().fold(command, |command, key| {
            let help = match key.default {
                Some(default) => format!("{} [default: {default}]", key.doc),
                None => key.doc.to_owned(),
            };
            let action = if key.repeats {
                ArgAction::Append
            } else {
                ArgAction::Set
            };
            let check = move |value: &str| key.check(value).map(|()| value.to_owned());
            let arg = Arg::new(key.name)
                .long(key.flag)
                .value_name(key.value)
                .help(help)
                .action(action)
                // An argument of node's begins with a hyphen.
                .allow_hyphen_values(key.flag == "node-arg")
                .value_parser(ValueParser::new(check))
                .help_heading("App");
            command.arg(match key.short {
                Some(short) => arg.short(short),
                None => arg,
            })
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Self::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in KEYS {
            for value in matches.get_many::<String>(key.name).into_iter().flatten() {
                key.set(&mut self.settings, value)
                    .map_err(|reason| invalid("run", &reason))?;
                self.written.push(key.name, value);
            }
        }
        Ok(())
    }
}
