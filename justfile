# Tasks of everyday work. Nothing here is needed to build, run or test: `cargo run --release -- demo`
# and `cargo test` do all their own set-up.

set positional-arguments

nodes := "16,18,20,22,24,26"

_default:
    @just --list --unsorted

# Formatting, lints, documentation, spelling, dependency policy: what a commit must pass
check: && deny spell
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# Dependency policy, if cargo-deny is installed
deny:
    @if command -v cargo-deny >/dev/null; then cargo deny check; else echo "cargo-deny is not installed: skipped"; fi

# Spelling, if typos is installed
spell:
    @if command -v typos >/dev/null; then typos; else echo "typos is not installed: skipped"; fi

# First tier: everything that plain `cargo test` runs
test *ARGS:
    cargo test "$@"

# The pure crates alone: seconds, while working on a decision
quick:
    cargo test -p segue-core -p segue-wire -p segue-sim
    cargo test -p segue --test tidy

# Whole-system tests alone, or those whose name contains FILTER
e2e FILTER="":
    cargo test -p segue --test e2e -- "{{ FILTER }}"

# One schedule of the simulator, with its full trace
sim SEED:
    SEGUE_SEED="{{ SEED }}" cargo test -p segue-sim -- --nocapture replay

# Second tier: the whole-system tests on every supported Node, fetched from npm into target/
matrix:
    SEGUE_TEST_NODES="{{ nodes }}" cargo test -p segue --test e2e

# Third tier: hours of schedules, reloads and load (tests marked `#[ignore = "long"]`)
long SCHEDULES="20000000":
    SEGUE_SCHEDULES="{{ SCHEDULES }}" cargo test --workspace --release -- --ignored --nocapture

# Fuzz one target; needs cargo-fuzz and a nightly toolchain
fuzz TARGET SECONDS="300":
    cargo +nightly fuzz run --fuzz-dir fuzz "{{ TARGET }}" -- -max_total_time="{{ SECONDS }}"

# Against bare `node cluster`, side by side, medians with their spread
bench *ARGS:
    cargo bench -p segue --bench throughput -- "$@"

# Line coverage, if cargo-llvm-cov is installed
cover:
    @if command -v cargo-llvm-cov >/dev/null; then cargo llvm-cov --workspace --html; else echo "cargo-llvm-cov is not installed: skipped"; fi

# What continuous integration runs
ci:
    CI=true bash .ci/run
