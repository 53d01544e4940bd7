//! The main process: starts the supervisor, forwards signals, reaps, mirrors the exit code.
