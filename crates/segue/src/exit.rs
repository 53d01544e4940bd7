//! Every exit code, once.
