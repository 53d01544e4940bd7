//! The control socket of a supervisor, from its predecessor or new.

use super::plan::Host;
use super::run::RunError;
use crate::control::socket::ControlSocket;
use crate::handoff::text::Word;
use crate::handoff::{Inherited, Journal};

/// The control socket, and where it is.
const CONTROL: &str = "control";

/// The control socket: the predecessor's, or a new one.
pub(super) fn open_control(
    host: &Host,
    site: &Journal,
    inherited: Option<&mut Inherited>,
) -> Result<Option<ControlSocket>, RunError> {
    let control = match inherited {
        Some(inherited) => match (inherited.take(CONTROL), inherited.value::<Word>(CONTROL)?) {
            (Some(listener), Some(path)) => Some(ControlSocket::adopt(listener, path.into())),
            // There was none: that is no reason not to go on.
            _ => host.control.as_deref().and_then(|path| {
                ControlSocket::bind(path)
                    .inspect_err(|error| tracing::warn!(%error, "no control socket"))
                    .ok()
            }),
        },
        None => match &host.control {
            Some(path) => Some(ControlSocket::bind(path)?),
            None => None,
        },
    };
    if let Some(control) = &control {
        site.hold(CONTROL, control.listener());
        site.put(CONTROL, &Word::from(control.path().as_os_str()));
    }
    Ok(control)
}
