//! JSON bodies of the /v1/ control API.
