//! How single values are written. An error says how to write it instead; it is a fragment that follows
//! the value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use segue_core::{Distribution, GiveUp, Intensity, MAX_WORKERS};

use super::quantity;
use super::settings::Workers;

pub(super) fn workers(text: &str) -> Result<Workers, String> {
    let usage = || format!("write a number from 1 to {MAX_WORKERS}, auto, or a share such as 50%");
    if text == "auto" {
        return Ok(Workers::Auto);
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent
            .parse()
            .ok()
            .filter(|percent| (1..=1000).contains(percent));
        return percent.map(Workers::Percent).ok_or_else(usage);
    }
    let count = text
        .parse()
        .ok()
        .filter(|count| (1..=MAX_WORKERS).contains(count));
    count.map(Workers::Count).ok_or_else(usage)
}

pub(super) fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 64 || text.starts_with(['.', '-']) || !text.chars().all(fits)
    {
        return Err("a name is 1 to 64 letters, digits, '-', '_' or '.', and begins with none of '-' and '.'".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("there is no '='; write KEY=VALUE")?;
    if key.is_empty() || text.contains('\0') {
        return Err("the variable has no name; write KEY=VALUE".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn text(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("the value is empty".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn path(value: &str) -> Result<PathBuf, String> {
    text(value).map(PathBuf::from)
}

pub(super) fn distribution(text: &str) -> Result<Distribution, String> {
    match text {
        "spread" => Ok(Distribution::Spread),
        "shared" => Ok(Distribution::Shared),
        _ => Err("write spread or shared".to_owned()),
    }
}

pub(super) fn count(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|count| (1..=100).contains(count))
        .ok_or_else(|| "write a number from 1 to 100".to_owned())
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    let usage = || "write a size with its unit, such as 512MiB or 2GiB".to_owned();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(usage)?);
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(usage()),
    };
    let number: u64 = number.parse().map_err(|_| usage())?;
    number
        .checked_mul(1 << shift)
        .filter(|size| *size > 0)
        .ok_or_else(usage)
}

pub(super) fn positive(text: &str) -> Result<Duration, String> {
    match quantity::duration(text)? {
        Duration::ZERO => Err("it must be longer than 0".to_owned()),
        duration => Ok(duration),
    }
}

/// A worker counts as blocked after a second.
pub(super) fn unresponsive(text: &str) -> Result<Duration, String> {
    let duration = quantity::duration(text)?;
    match duration > Duration::from_secs(1) {
        true => Ok(duration),
        false => Err("it must be longer than 1s".to_owned()),
    }
}

pub(super) fn intensity(text: &str) -> Result<Intensity, String> {
    let usage = "write a number and a duration, such as 10/1m";
    let (restarts, within) = text.split_once('/').ok_or(usage)?;
    let restarts = restarts.trim().parse().map_err(|_| usage)?;
    let within = positive(within)?;
    Ok(Intensity { restarts, within })
}

pub(super) fn give_up(text: &str) -> Result<GiveUp, String> {
    match text {
        "stay" => Ok(GiveUp::Stay),
        "exit" => Ok(GiveUp::Exit),
        _ => Err("write stay or exit".to_owned()),
    }
}
/// `127.0.0.1:9464`.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write an IP address and a port, such as 127.0.0.1:9464".to_owned())
}
