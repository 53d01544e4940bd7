//! The supervisor process: turns what happens into events for the core and performs its actions.
