//! The terminal: taken as a whole, given back as it was, on whatever way out.

use std::fs::File;
use std::io::{self, Stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::panic;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
    is_raw_mode_enabled,
};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use rustix::termios::{isatty, tcgetwinsize};
use segue_sys::readable;
use tokio::io::unix::AsyncFd;

use super::draw::{Look, draw};
use super::state::State;

/// Where a terminal does not say how large it is.
const USUAL: (u16, u16) = (80, 24);

/// The terminal that stdout is. Dropped, it is as it was before.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes it. Should this process panic, it is given back before the message appears.
    ///
    /// # Errors
    /// It cannot be written to, or has no modes to be set.
    pub(super) fn take() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            give_back();
            before(panicked);
        }));
        // Its own size, not that of the controlling terminal, which need not be the same one.
        let options = TerminalOptions {
            viewport: Viewport::Fixed(size()),
        };
        let backend = CrosstermBackend::new(io::stdout());
        let terminal = Terminal::with_options(backend, options)?;
        let mut screen = Self { terminal };
        screen.take_again()?;
        Ok(screen)
    }

    /// After it was given back, or others have had it: sets its modes, and forgets what it showed.
    ///
    /// # Errors
    /// As [`Screen::take`].
    pub(super) fn take_again(&mut self) -> io::Result<()> {
        disable_raw_mode()?;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        self.fit()
    }

    pub(super) fn give_back(&self) {
        give_back();
    }

    /// Takes the size that it has now; the next picture is drawn as a whole.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(super) fn fit(&mut self) -> io::Result<()> {
        self.terminal.resize(size())
    }

    /// # Errors
    /// It cannot be written to.
    pub(super) fn show(&mut self, state: &State, look: &Look) -> io::Result<()> {
        self.terminal.draw(|frame| {
            let area = frame.area();
            draw(state, look, area, frame.buffer_mut());
        })?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Where it has gone there is nothing to give back, and nobody to tell.
fn give_back() {
    // Twice would bring the cursor back to where it was before the view, over what has been said since.
    if !is_raw_mode_enabled().unwrap_or(false) {
        return;
    }
    let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

fn size() -> Rect {
    let size = tcgetwinsize(io::stdout()).map(|size| (size.ws_col, size.ws_row));
    let (width, height) = match size {
        Ok((0, _) | (_, 0)) | Err(_) => USUAL,
        Ok(size) => size,
    };
    Rect::new(0, 0, width, height)
}

/// The keys' end of the terminal, to be waited for: stdin, or the controlling terminal where stdin is
/// something else.
///
/// # Errors
/// There is none.
pub(super) fn keys() -> io::Result<AsyncFd<OwnedFd>> {
    let stdin = io::stdin();
    let fd = match isatty(&stdin) {
        true => stdin.as_fd().try_clone_to_owned()?,
        false => File::open("/dev/tty")?.into(),
    };
    readable::watch(fd).map_err(|(_, error)| error)
}
