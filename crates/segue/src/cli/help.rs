//! What stands below the flags in `--help`: examples, exit codes, and what a table cannot say.

pub(super) const AFTER_HELP: &str = "\
Examples:
  segue run server.js                  one worker per CPU, logs on stdout, ^C stops
  segue run -w 4 server.js --port 80   what follows the script is the script's
  segue reload                         new code; no client notices
  segue status                         what runs, and what drains

Exit codes: 0 done; 1 failed, nothing changed; 2 wrong usage; 3 no supervisor or no such app;
4 another operation is in the way; 5 partly done; 124 timed out.";

pub(super) const RUN_HELP: &str = "\
Examples:
  segue run server.js
  segue run -w 2 --env NODE_ENV=production server.js --port 3000
  segue run --ready message --ready-timeout 1m server.js
  segue run --cwd /srv/web/current server.js   the symlink is followed again at each reload
  segue run                                    the app of ./segue.toml; without one, the start script of package.json
  segue run -c /etc/web.toml web               one of the apps of a file

Signals: HUP reload; TERM, QUIT, INT stop gracefully (again: at once); TTIN, TTOU one worker more, fewer;
USR1 opens the log file anew; USR2 upgrades; WINCH pauses.
DURATION is a number with a unit: 500ms, 2s, 1m30s, 24h.";

pub(super) const START_HELP: &str = "\
The background supervisor has no terminal, and a log of its own; it remembers its apps and brings them
back after a reboot (segue service install). Output of an app that names no log goes to
logs/NAME.log in its state directory; segue logs shows it.

Examples:
  segue start -w 4 server.js
  segue start                  all apps of ./segue.toml; without one, the app of package.json
  segue start web              one that was stopped";

pub(super) const APPLY_HELP: &str = "\
What has to change is printed first. Changed settings of workers (command, environment, node, directory)
take a reload, the number of workers a scaling; all others hold at once. Nothing is restarted.
It goes to the supervisor that has apps of the file, else to the background supervisor.

Examples:
  segue apply --dry-run
  segue apply -c /etc/segue.toml";

pub(super) const RELOAD_HELP: &str = "\
The new generation boots beside the old one and gets connections only when all of it is ready.
If it fails, the old one goes on as if nothing had happened, and the exit code is 1.

Examples:
  segue reload
  segue reload web --wait drained --timeout 10m
  segue reload --canary 10%:60s        a tenth of new connections first, for a minute
  segue reload --canary 10%:60s:0.5%   the same; back if 0.5 % more of its answers are errors";

pub(super) const ROLLBACK_HELP: &str = "\
While a reload is on trial (canary, probation) it is abandoned: what served before goes on. After
that the release before is brought back by another reload, from its own directory, if that still
exists; it must show that it works like any other. If it does not, nothing changes, and the exit
code is 1.";

pub(super) const UPGRADE_HELP: &str = "\
The new binary first shows that it can read the state of the running supervisor; only then the
supervisor becomes it, with the same pid. Workers, connections and reloads under way go on. If
anything fails the running supervisor goes on, and the exit code is 1.

Examples:
  segue upgrade                              whatever has been installed over the running binary
  segue upgrade --binary /opt/segue-0.2/segue";

pub(super) const CHECK_HELP: &str = "\
Exit codes: 0 the file is good; 2 it is not, or there is none.

Examples:
  segue check
  segue check -c /etc/web.toml
  segue check --schema > segue.schema.json   for an editor: #:schema ./segue.schema.json";
