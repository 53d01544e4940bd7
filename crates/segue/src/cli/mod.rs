//! Commands and flags: what a user types.
