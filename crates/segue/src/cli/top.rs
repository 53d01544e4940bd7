//! `segue top`: a live view of the whole screen. It asks for what `status`, `events` and `logs` ask for, and for
//! nothing else; when it ends, nobody asks any more.

mod draw;
#[cfg(test)]
mod draw_tests;
mod keys;
#[cfg(test)]
mod recorded;
mod rows;
mod screen;
mod sources;
mod state;
mod table;

use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use segue_sys::readable;
use segue_sys::signal::Chosen;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::draw::Look;
use self::keys::Keyboard;
use self::screen::Screen;
use self::sources::Sources;
use self::state::{Event, Now, Order, State};
use super::error::Trouble;
use super::output::Output;
use crate::config::quantity;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;
use crate::telemetry::log::Verbosity;

const WHAT: &str = "cannot show the live view";
/// More often than this would only be a load.
const SHORTEST: Duration = Duration::from_millis(200);
/// An answer that takes longer than this, and than two intervals, is missed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the rest of a key may take to come.
const KEY_WAIT: Duration = Duration::from_millis(50);
/// News that wait to be shown.
const WAITING: usize = 256;

#[derive(clap::Args, Debug)]
pub(crate) struct TopArgs {
    /// Show only this app [default: all of the supervisor]
    app: Option<String>,
    /// How often to look, 200ms at least
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = how_often)]
    interval: Duration,
    /// The supervisor's control socket [default: the only one, or the one that has the app]
    #[arg(long, value_name = "PATH", env = "SEGUE_CONTROL")]
    control: Option<PathBuf>,
}

impl TopArgs {
    pub(crate) fn output(&self) -> Output {
        Output::of_this_process(false, Verbosity::Normal)
    }
}

fn how_often(text: &str) -> Result<Duration, String> {
    match quantity::duration(text)? {
        often if often < SHORTEST => Err("write 200ms or more".to_owned()),
        often => Ok(often),
    }
}

pub(super) async fn run(args: TopArgs, output: Output) -> Result<Exit, Trouble> {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if !io::stdout().is_terminal() || is_dumb {
        let why = match is_dumb {
            true => "this terminal cannot move its cursor (TERM=dumb)",
            false => "stdout is no terminal",
        };
        let next = "segue status shows what runs, segue status --json the same for programs";
        return Err(Trouble::new(WHAT, why, next, Exit::Usage));
    }
    let app = args.app.as_deref();
    let found = find(args.control, app, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(WHAT, error))?;
    let look = Look {
        has_colours: output.has_colours(),
        zone: TimeZone::system(),
    };
    let patience = PATIENCE.max(args.interval * 2);
    let state = State::new(args.app, patience, found.status, now());
    let (news, told) = mpsc::channel(WAITING);
    let sources = Sources::new(found.client, args.interval, news);
    let shown = View::take(state, look, sources)
        .map(|view| view.run(told, args.interval))
        .map_err(no_terminal)?;
    shown.await.map_err(no_terminal)?;
    Ok(Exit::Done)
}

fn no_terminal(error: io::Error) -> Trouble {
    let next = "run it on a terminal; segue status shows what runs";
    Trouble::new(WHAT, format!("the terminal: {error}"), next, Exit::Failed)
}

fn now() -> Now {
    Now {
        at: Instant::now(),
        wall: Timestamp::now(),
    }
}

/// The view, and all that it is made of.
struct View {
    state: State,
    look: Look,
    sources: Sources,
    signals: AsyncFd<Chosen>,
    keys: AsyncFd<OwnedFd>,
    keyboard: Keyboard,
    screen: Screen,
    is_over: bool,
}

impl View {
    fn take(state: State, look: Look, sources: Sources) -> io::Result<Self> {
        // Before there is a thread that they could act on.
        let signals = Chosen::block(&[
            Signal::HUP,
            Signal::INT,
            Signal::QUIT,
            Signal::TERM,
            Signal::WINCH,
            Signal::TSTP,
            Signal::CONT,
        ])?;
        Ok(Self {
            state,
            look,
            sources,
            signals: readable::watch(signals).map_err(|(_, error)| error)?,
            keys: screen::keys()?,
            keyboard: Keyboard::default(),
            screen: Screen::take()?,
            is_over: false,
        })
    }

    async fn run(mut self, mut told: Receiver<Event>, often: Duration) -> io::Result<()> {
        let mut clock = interval(often);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_over {
            self.screen.show(&self.state, &self.look)?;
            tokio::select! {
                signal = self.signals.readable() => {
                    signal?.clear_ready();
                    self.signalled()?;
                }
                key = self.keys.readable() => {
                    // Before it is read: what comes meanwhile is told of again.
                    key?.clear_ready();
                    self.typed()?;
                }
                () = sleep(KEY_WAIT), if self.keyboard.has_begun() => {
                    let key = self.keyboard.settle();
                    self.handle(key.map(Event::Pressed))?;
                }
                Some(event) = told.recv() => {
                    self.handle(Some(event))?;
                    // All that has come is one picture.
                    while let Ok(event) = told.try_recv() {
                        self.handle(Some(event))?;
                    }
                }
                _ = clock.tick() => self.handle(Some(Event::Passed))?,
            }
        }
        Ok(())
    }

    fn signalled(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signals.get_ref().receive()? {
            match signal {
                Signal::WINCH => self.screen.fit()?,
                Signal::TSTP => self.suspend()?,
                // Others have had the terminal meanwhile.
                Signal::CONT => self.screen.take_again()?,
                _ => self.is_over = true,
            }
        }
        Ok(())
    }

    fn typed(&mut self) -> io::Result<()> {
        let mut bytes = [0; 256];
        while !self.is_over && has_keys(self.keys.get_ref()) {
            let count = match rustix::io::read(self.keys.get_ref(), &mut bytes) {
                // The terminal has gone.
                Ok(0) | Err(Errno::IO) => {
                    self.is_over = true;
                    break;
                }
                Ok(count) => count,
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for key in self.keyboard.feed(bytes.get(..count).unwrap_or_default()) {
                self.handle(Some(Event::Pressed(key)))?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Option<Event>) -> io::Result<()> {
        let orders = event.map(|event| self.state.handle(now(), event));
        for order in orders.into_iter().flatten() {
            match order {
                Order::Quit => self.is_over = true,
                Order::Suspend => self.suspend()?,
                Order::Redraw => self.screen.fit()?,
                Order::Reload(app) => self.sources.reload(app),
                Order::Follow(log) => self.sources.follow(log),
            }
        }
        Ok(())
    }

    fn suspend(&mut self) -> io::Result<()> {
        self.screen.give_back();
        self.signals.get_ref().act(Signal::TSTP)?;
        self.screen.take_again()
    }
}

/// Whether a read would not wait: others read from the same terminal, and it is not ours to set its flags.
fn has_keys(keys: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(keys, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        for (text, expected) in [
            ("1s", Ok(1_000)),
            ("200ms", Ok(200)),
            ("199ms", Err("200ms or more")),
            ("0s", Err("200ms or more")),
            ("1", Err("write 1s")),
        ] {
            let often = how_often(text);
            match expected {
                Ok(millis) => assert_eq!(often, Ok(Duration::from_millis(millis)), "{text}"),
                Err(part) => {
                    let error = often.unwrap_err();
                    assert!(error.contains(part), "{text}: {error}");
                }
            }
        }
    }
}
