//! What people and machines are told: log lines and news.
