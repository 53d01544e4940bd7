//! Descriptors that the service manager passes on (sd_listen_fds(3)): sockets that it listens at in
//! our place, and what it has kept for us. Says whose they are and what they are called, not what
//! they are for.

use std::os::fd::OwnedFd;

use segue_sys::inherited;

/// What their names begin with where they are held.
pub(crate) const PREFIX: &str = "activation/";

/// The longest name under which something can be held.
const LONGEST: usize = 255;

/// What was passed on.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// By the names under which they are to be held.
    pub(crate) descriptors: Vec<(String, OwnedFd)>,
    /// What is wrong with them.
    pub(crate) complaint: Option<String>,
}

/// Takes what was passed to this process. To be called once, before anything is opened.
pub(crate) fn take() -> Passed {
    let variable = |name| std::env::var(name).ok();
    let [fds, pid, names] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"].map(variable);
    let names = match names_of(
        fds.as_deref(),
        pid.as_deref(),
        names.as_deref(),
        std::process::id(),
    ) {
        Ok(names) => names,
        Err(complaint) => {
            return Passed {
                complaint: Some(complaint),
                ..Passed::default()
            };
        }
    };
    let count = u16::try_from(names.len()).unwrap_or(u16::MAX);
    let taken = names.iter().zip(inherited::take(count));
    let (found, missing): (Vec<_>, Vec<_>) = taken.partition(|(_, taken)| taken.is_some());
    let complaint = (!missing.is_empty()).then(|| {
        format!(
            "{} of the {} descriptors that LISTEN_FDS speaks of are not there",
            missing.len(),
            names.len()
        )
    });
    let descriptors = found
        .into_iter()
        .filter_map(|(name, descriptor)| Some((name.clone(), descriptor?)));
    Passed {
        descriptors: descriptors.collect(),
        complaint,
    }
}

/// Names of what was passed to the process `ours`, in order; none if nothing was.
fn names_of(
    fds: Option<&str>,
    pid: Option<&str>,
    names: Option<&str>,
    ours: u32,
) -> Result<Vec<String>, String> {
    let (Some(fds), Some(pid)) = (fds, pid) else {
        return Ok(Vec::new());
    };
    let Ok(count) = fds.parse::<u16>() else {
        return Err(format!("LISTEN_FDS={fds} is no number: ignored"));
    };
    if pid.parse() != Ok(ours) {
        return Err(format!(
            "the sockets of LISTEN_FDS are for process {pid}, and this is {ours}: ignored; start segue without a shell around it"
        ));
    }
    let mut given = names.into_iter().flat_map(|names| names.split(':'));
    let name = |number| {
        let given = given.next().filter(|name| !name.is_empty());
        let mut name = format!("{PREFIX}{number}/{}", given.unwrap_or("unknown"));
        name.truncate(name.floor_char_boundary(LONGEST));
        name
    };
    Ok((0..count).map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_for_the_process_that_is_named() {
        let names = |fds, pid, names| names_of(fds, pid, names, 7);
        assert_eq!(names(None, None, None), Ok(Vec::new()));
        assert_eq!(names(Some("2"), None, None), Ok(Vec::new()));
        assert_eq!(
            names(Some("3"), Some("7"), Some("web:")),
            Ok(vec![
                "activation/0/web".to_owned(),
                "activation/1/unknown".to_owned(),
                "activation/2/unknown".to_owned(),
            ])
        );
        assert!(
            names(Some("1"), Some("8"), None)
                .unwrap_err()
                .contains("process 8")
        );
        assert!(names(Some("x"), Some("7"), None).is_err());
        let long = "é".repeat(200);
        let held = names(Some("1"), Some("7"), Some(&long)).unwrap();
        assert!((LONGEST - 1..=LONGEST).contains(&held[0].len()));
    }
}
