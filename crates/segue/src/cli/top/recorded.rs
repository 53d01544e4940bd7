//! For tests: what a supervisor answered, with two apps: one whose old worker drains, one that reloads.

use std::time::Instant;

use segue_wire::control::Status;

use super::state::Now;

const ANSWER: &str = r#"{
  "supervisor": {
    "version": "0.1.0", "pid": 3999, "keeper_pid": 3998, "keeper_version": "0.1.0",
    "since_ms": 11100000, "memory": 12582912, "control": "/run/segue/main.sock"
  },
  "apps": [
    {
      "name": "web", "phase": "running", "generation": 2,
      "restarts": [{"cause": "exited_ready", "text": "exit code 1", "count": 3}],
      "addresses": [{"name": "0.0.0.0:3000", "queued": 0}],
      "slots": [{"slot": 0, "worker": 3}, {"slot": 1, "worker": 4}],
      "workers": [
        {"worker": 1, "slot": 0, "generation": 1, "pid": 4001, "phase": "draining", "since_ms": 12000,
         "until_in_ms": 107000, "age_ms": 4000000, "memory": 49283072, "cpu_ms": 50000, "connections": 4,
         "draining": {"busy": 3, "websocket": 1, "oldest_ms": 720000, "moved": 118}},
        {"worker": 3, "slot": 0, "generation": 2, "pid": 4003, "phase": "ready", "since_ms": 12000,
         "age_ms": 13000, "memory": 51380224, "cpu_ms": 1300},
        {"worker": 4, "slot": 1, "generation": 2, "pid": 4004, "phase": "ready", "since_ms": 12000,
         "age_ms": 13000, "memory": 52428800, "cpu_ms": 650, "restarts": 2}
      ],
      "log": {"path": "/var/log/web.log", "format": "text", "time": false}
    },
    {
      "name": "api", "phase": "running", "generation": 1,
      "reload": {"reload": 1, "generation": 2, "since_ms": 2000, "step": "booting",
                 "step_text": "1 of 1 new worker boot", "step_since_ms": 2000, "until_in_ms": 28000},
      "slots": [{"slot": 0, "worker": 2}],
      "workers": [
        {"worker": 2, "slot": 0, "generation": 2, "pid": 4102, "phase": "booting", "since_ms": 2000,
         "until_in_ms": 28000, "age_ms": 2000, "memory": 31457280, "cpu_ms": 400}
      ]
    }
  ]
}"#;

pub(super) fn status() -> Status {
    serde_json::from_str(ANSWER).unwrap()
}

/// 12:03:04 UTC.
pub(super) fn now() -> Now {
    Now {
        at: Instant::now(),
        wall: "2026-03-01T12:03:04Z".parse().unwrap(),
    }
}
