//! The control API: server, client, and the translation between core and wire.
