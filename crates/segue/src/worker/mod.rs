//! One worker process: how it is launched, its channel, its output.
