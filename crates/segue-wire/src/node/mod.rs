//! Node's cluster channel.
