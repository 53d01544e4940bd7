//! What runs an app: node, with what it loads first, or a program of another kind. Only words are looked
//! at here; what the files are is for whoever reads them.

/// Programs that run a script through node, and how node does the same by itself: another one in front
/// would take the place of the worker.
const LOADERS: &[(&str, &str)] = &[
    ("babel-node", "--require=@babel/register"),
    ("esbuild-register", "--require=esbuild-register"),
    ("ts-node", "--require=ts-node/register"),
    ("ts-node-esm", "--loader=ts-node/esm"),
    ("tsx", "--import=tsx"),
];

/// Programs that run a script of package.json, or a program that is installed there.
const RUNNERS: &[&str] = &["npm", "npx", "pnpm", "yarn"];

const SHELLS: &[&str] = &["bash", "dash", "sh", "zsh"];

/// An app's command as PM2 has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// `none` where the script is the program.
    pub(super) interpreter: String,
    /// Between that and the script.
    pub(super) before: Vec<String>,
    pub(super) script: String,
    pub(super) args: Vec<String>,
}

impl Line {
    /// With node in place of what would run it for us.
    pub(super) fn unwrapped(mut self) -> Self {
        if let Some(loader) = loader(&self.interpreter) {
            self.before.insert(0, loader.to_owned());
            "node".clone_into(&mut self.interpreter);
            return self;
        }
        let runs_itself = is_node(&self.interpreter) || self.interpreter == "none";
        let Some(loader) = loader(&self.script).filter(|_| runs_itself) else {
            return self;
        };
        let is_option = |word: &String| word.starts_with('-') || word == "watch";
        let Some(at) = self.args.iter().position(|word| !is_option(word)) else {
            return self;
        };
        let options = self.args.drain(..at).filter(|word| word != "watch");
        self.before.push(loader.to_owned());
        self.before.extend(options);
        self.script = self.args.remove(0);
        "node".clone_into(&mut self.interpreter);
        self
    }
}

pub(super) fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

pub(crate) fn is_node(word: &str) -> bool {
    base(word) == "node"
}

pub(crate) fn is_shell(word: &str) -> bool {
    SHELLS.contains(&base(word))
}

pub(crate) fn is_runner(word: &str) -> bool {
    RUNNERS.contains(&base(word))
}

fn loader(word: &str) -> Option<&'static str> {
    // As it is called, or as the file that this leads to: node_modules/tsx/dist/cli.mjs.
    let package = word.rsplit_once("node_modules/").and_then(|(_, rest)| {
        let mut parts = rest.split('/');
        parts.next().filter(|package| *package != ".bin")
    });
    let name = package.unwrap_or_else(|| base(word));
    let found = LOADERS.iter().find(|(known, _)| *known == name);
    found.map(|(_, loader)| *loader)
}

/// Splits a text of arguments as PM2 does: at blanks, without a shell; quotes hold together.
pub(crate) fn split(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in line.chars() {
        match quote {
            Some(open) if open == c => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c.is_whitespace() => words.extend(word.take()),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(interpreter: &str, before: &str, script: &str, args: &str) -> Line {
        Line {
            interpreter: interpreter.to_owned(),
            before: split(before),
            script: script.to_owned(),
            args: split(args),
        }
    }

    #[test]
    fn what_runs_typescript_becomes_what_node_loads() {
        let tsx = line("node", "--import=tsx", "src/a.ts", "-p 1");
        for written in [
            line("tsx", "", "src/a.ts", "-p 1"),
            line("./node_modules/.bin/tsx", "", "src/a.ts", "-p 1"),
            line("node", "", "node_modules/.bin/tsx", "src/a.ts -p 1"),
            line("none", "", "node_modules/.bin/tsx", "watch src/a.ts -p 1"),
            line(
                "node",
                "",
                "/srv/node_modules/tsx/dist/cli.mjs",
                "src/a.ts -p 1",
            ),
        ] {
            assert_eq!(written.clone().unwrapped(), tsx, "{written:?}");
        }
        for (written, wanted) in [
            (
                line("ts-node", "--inspect", "a.ts", ""),
                line("node", "--require=ts-node/register --inspect", "a.ts", ""),
            ),
            (
                line("node", "--x", "tsx", "--no-warnings a.ts"),
                line("node", "--x --import=tsx --no-warnings", "a.ts", ""),
            ),
        ] {
            assert_eq!(written.unwrapped(), wanted);
        }
        for same in [
            line("node", "--import tsx", "a.ts", ""),
            line("python3", "-u", "tsx", "a"),
            line("node", "", "tsx", "--version"),
            line("node", "", "node_modules/next/dist/bin/next", "start"),
        ] {
            assert_eq!(same.clone().unwrapped(), same);
        }
    }

    #[test]
    fn arguments_as_pm2_splits_them() {
        for (text, words) in [
            ("--a  1", &["--a", "1"][..]),
            ("--name 'my app' \"b c\"", &["--name", "my app", "b c"]),
            ("--glob=*.js $HOME a&b", &["--glob=*.js", "$HOME", "a&b"]),
            ("--name=\"my app\" ''", &["--name=my app", ""]),
            (" it's open", &["its open"]),
            ("", &[]),
        ] {
            assert_eq!(split(text), words, "{text}");
        }
    }
}
