//! A binary that shows that it can read the state and then does not do a supervisor's work: the
//! worst that an upgrade may meet. A file beside it, named like it with the extension `real`, says
//! where the binary is that reads the state; one with the extension `then` what it does afterwards.
//! Where there is a pipe with the extension `gate`, it waits for its end before it reads.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "its last words are looked for by the tests"
)]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let own = std::env::args_os().next().unwrap_or_default();
    let beside = |extension| std::path::Path::new(&own).with_extension(extension);
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "__probe") {
        // Where there is none, there is nothing to wait for.
        let _ = std::fs::read(beside("gate"));
        let Ok(real) = std::fs::read_to_string(beside("real")) else {
            return ExitCode::from(3);
        };
        let error = Command::new(real.trim()).arg("__probe").exec();
        eprintln!("impostor: {error}");
        return ExitCode::from(4);
    }
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let then = std::fs::read_to_string(own.with_extension("then")).unwrap_or_default();
    eprintln!("impostor: not what I seemed to be");
    match then.trim() {
        "hangs" => loop {
            std::thread::park();
        },
        "panics" => ExitCode::from(101),
        _ => ExitCode::FAILURE,
    }
}
