//! The listener pool: a socket for each worker, who gets connections, and queues without a worker.
