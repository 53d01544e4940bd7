//! Commands and flags: what a user types. Commands speak to a supervisor only through its control socket.

mod apply;
pub(crate) mod args;
mod check;
mod connections;
mod demo;
mod error;
mod events;
mod every;
mod familiar;
mod flush;
mod follow;
mod given;
mod help;
mod hook;
mod import;
mod init;
mod logs;
pub(crate) mod output;
pub(crate) mod prepared;
mod reference;
mod reload;
mod scale;
pub(crate) mod service;
mod start;
mod status;
mod stop;
mod top;
mod trial;
mod upgrade;
mod why;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command, RunArgs};
use self::error::Trouble;
use self::output::Output;
use crate::exit::Exit;
use crate::telemetry::log::Verbosity;

/// Parses a command line and does what it says. `run` is the supervisor itself, on a floor that
/// this module does not know; it has exit codes of its own, the app's among them.
pub(crate) fn main(words: Vec<OsString>, run: impl FnOnce(RunArgs) -> u8) -> ExitCode {
    let words = match familiar::meant(words) {
        Ok(words) => words,
        Err(trouble) => {
            local_output().trouble(&trouble);
            return trouble.exit.into();
        }
    };
    match parse(words) {
        Ok(Command::Run(args)) => return run(*args).into(),
        Ok(Command::Start(args)) if args.foreground => {
            return run(args.into_background()).into();
        }
        Ok(Command::Start(args)) => drive(args.output(), |output| start::run(*args, output)),
        Ok(Command::Apply(args)) => drive(args.common.output(), |output| apply::run(args, output)),
        Ok(Command::Delete(args)) => {
            drive(args.common.output(), |output| start::delete(args, output))
        }
        Ok(Command::Reload(args)) => {
            drive(args.common.output(), |output| reload::run(args, output))
        }
        Ok(Command::Promote(args)) => {
            drive(args.common.output(), |output| trial::promote(args, output))
        }
        Ok(Command::Rollback(args)) => {
            drive(args.common.output(), |output| trial::rollback(args, output))
        }
        Ok(Command::Restart(args)) => {
            drive(args.common.output(), |output| trial::restart(args, output))
        }
        Ok(Command::Why(args)) => drive(args.common.output(), |output| why::run(args, output)),
        Ok(Command::Logs(args)) => drive(args.common.output(), |output| logs::run(args, output)),
        Ok(Command::Flush(args)) => drive(args.common.output(), |output| flush::run(args, output)),
        Ok(Command::Reopen(args)) => {
            drive(args.common.output(), |output| flush::reopen(args, output))
        }
        Ok(Command::Hook(args)) => drive(args.output(), |output| hook::run(args, output)),
        Ok(Command::Completions(args)) => drive(local_output(), |output| {
            reference::completions(args, output)
        }),
        Ok(Command::Man(args)) => drive(local_output(), |output| reference::man(args, output)),
        Ok(Command::Status(args)) => {
            drive(args.common.output(), |output| status::run(args, output))
        }
        Ok(Command::Events(args)) => {
            drive(args.common.output(), |output| events::run(args, output))
        }
        Ok(Command::Top(args)) => drive(args.output(), |output| top::run(args, output)),
        Ok(Command::Scale(args)) => drive(args.common.output(), |output| scale::run(args, output)),
        Ok(Command::Stop(args)) => drive(args.common.output(), |output| stop::run(args, output)),
        Ok(Command::Shutdown(args)) => {
            drive(args.common.output(), |output| stop::shutdown(args, output))
        }
        Ok(Command::Upgrade(args)) => {
            drive(args.common.output(), |output| upgrade::run(args, output))
        }
        Ok(Command::Check(args)) => drive(local_output(), |output| check::run(args, output)),
        Ok(Command::Init(args)) => drive(local_output(), |output| init::run(args, output)),
        Ok(Command::Import(args)) => drive(local_output(), |output| import::run(args, output)),
        Ok(Command::Service(args)) => drive(args.output(), |output| service::run(args, output)),
        Ok(Command::Demo(args)) => drive(args.output(), |output| demo::run(args, output)),
        Err(exit) => exit,
    }
    .into()
}

/// Of a command that speaks to no supervisor.
fn local_output() -> Output {
    Output::of_this_process(false, Verbosity::new(false, 0))
}

/// Help and version are answers, everything else that is no command is wrong usage; both are printed here.
fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, Exit> {
    let error = match Cli::try_parse_from(words) {
        Ok(cli) => match cli.command.check() {
            Ok(()) => return Ok(cli.command),
            Err(error) => error,
        },
        Err(error) => error,
    };
    // Where nobody reads, the exit code has to do.
    let _ = error.print();
    Err(if error.use_stderr() {
        Exit::Usage
    } else {
        Exit::Done
    })
}

/// Runs a command to its end on a runtime of its own.
fn drive<F: Future<Output = Result<Exit, Trouble>>>(
    output: Output,
    command: impl FnOnce(Output) -> F,
) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(command(output.clone())),
        Err(error) => Err(Trouble::new(
            "cannot begin",
            error,
            "check the limit on open files",
            Exit::Failed,
        )),
    };
    let exit = result.unwrap_or_else(|trouble| {
        output.trouble(&trouble);
        trouble.exit
    });
    output.finish(exit)
}
