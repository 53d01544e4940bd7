//! `segue check`: everything that is wrong with a file, at once.

use std::path::PathBuf;

use super::args::CheckArgs;
use super::error::Trouble;
use super::output::Output;
use crate::config::command::logical_directory;
use crate::config::file::schema;
use crate::config::file::verify::verify;
use crate::config::file::{File, FileError, Refused};
use crate::exit::Exit;

pub(super) async fn run(args: CheckArgs, output: Output) -> Result<Exit, Trouble> {
    if args.schema {
        output.line(schema::text().trim_end());
        return Ok(Exit::Done);
    }
    let here = here()?;
    let path = match &args.config {
        Some(path) => here.join(path),
        None => File::of_directory(&here).ok_or_else(|| {
            Trouble::new(
                "nothing to check",
                format!("{} has no segue.toml", here.display()),
                "name the file with -c FILE, or write one with segue init",
                Exit::Usage,
            )
        })?,
    };
    let lookup = |name: &str| std::env::var(name).ok();
    let file = match File::read(&path, &lookup) {
        Ok(file) => file,
        Err(error) => {
            output.complain(&error.report(output.colours_complaints()));
            return Ok(Exit::Usage);
        }
    };
    let env: Vec<_> = std::env::vars_os().collect();
    let missing = verify(&file, &env);
    if !missing.is_empty() {
        let refused = Refused::new(&file.path, &file.text, missing);
        let error = FileError::Refused(Box::new(refused));
        output.complain(&error.report(output.colours_complaints()));
        return Ok(Exit::Usage);
    }
    let names: Vec<&str> = file.apps.iter().map(|app| app.name.as_str()).collect();
    output.line(&format!(
        "{} is good: {}",
        file.path.display(),
        names.join(", ")
    ));
    Ok(Exit::Done)
}

/// The current directory, as the user reached it.
pub(super) fn here() -> Result<PathBuf, Trouble> {
    logical_directory(std::env::var_os("PWD").as_deref()).map_err(|error| {
        Trouble::new(
            "cannot tell the current directory",
            error,
            "go to one that exists",
            Exit::Failed,
        )
    })
}
