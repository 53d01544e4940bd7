//! The program that says which socket of a group gets a new connection.
