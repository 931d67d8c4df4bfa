//! Texts that name something outside: addresses, directories, names. One strict parser for flags, file and environment.
//!
//! What is refused here would otherwise be found out late, or never: a name with a line end in it is another cluster, an
//! address with a space never resolves, a `~` that no shell replaced is a directory of that name.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV6};

/// The longest host name, and the longest part of one (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// An address as it is written: `host:port` or `[IPv6]:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// A name or an IP address, without brackets.
    pub host: &'a str,
    /// The port.
    pub port: u16,
}

impl<'a> Address<'a> {
    /// Reads an address with a port of at least `port_min`.
    ///
    /// # Errors
    /// What is wrong, and the right form.
    pub fn parse(text: &'a str, port_min: u16) -> Result<Address<'a>, String> {
        let wrong = |why: &str| {
            Err(format!("{why}; an address is written host:port or [IPv6]:port, with a port from {port_min} to 65535"))
        };
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return wrong("there is white space in it");
        }
        if text.contains("://") {
            return wrong("it is a URL");
        }
        let Some((host, port)) = text.rsplit_once(':') else { return wrong("it has no port") };
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            // With the port, because only so may it name an interface.
            Some(Some(inside)) if text.parse::<SocketAddrV6>().is_ok() => inside,
            Some(_) => return wrong("what stands in brackets is no IPv6 address"),
            None if host.is_empty() => return wrong("it has no host (0.0.0.0 is every one of this machine)"),
            None if host.contains(':') => return wrong("an IPv6 address stands in brackets, before the port"),
            None if !is_host(host) => return wrong("its host is neither a name nor an IP address"),
            None => host,
        };
        let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse::<u16>() {
            Ok(port) if digits && port >= port_min => Ok(Address { host, port }),
            _ => wrong("its port is not possible"),
        }
    }

    /// Listens on every address, which is nothing to connect to.
    pub(super) fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

fn is_host(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // No top-level name is a number, so this is meant to be an IPv4 address.
    let is_number = labels.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    host.len() <= NAME_BYTES_MAX && labels.split('.').all(is_label) && (!is_number || host.parse::<Ipv4Addr>().is_ok())
}

/// Checks that a text is what was meant: nothing around it that a shell or a reader of files would have taken off.
///
/// # Errors
/// What is wrong, and the next step.
pub fn check_text(text: &str) -> Result<(), String> {
    if text.trim() != text {
        return Err("there is white space around it (\\r is the line end of Windows): take it off".into());
    }
    if text.chars().any(char::is_control) {
        return Err("there is a control character in it: take it out".into());
    }
    let quoted = |mark: char| text.len() > 1 && text.starts_with(mark) && text.ends_with(mark);
    if quoted('"') || quoted('\'') {
        return Err("nobody takes off these quotes: leave them out".into());
    }
    Ok(())
}

/// Checks the name of a directory, which may be about to be made: [`check_text`], and nothing in it that a shell would
/// have replaced.
///
/// # Errors
/// What is wrong, and the next step.
pub fn check_directory(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("name a directory, or leave it out".into());
    }
    check_text(text)?;
    if text.starts_with('~') {
        return Err("no shell replaced the ~: write the whole path (or ./~ for a directory of that name)".into());
    }
    let is_variable = |part: &str| {
        part.strip_prefix('$')
            .is_some_and(|name| name.starts_with(|c: char| c.is_alphabetic() || matches!(c, '_' | '{')))
    };
    if text.contains("${") || text.split('/').any(is_variable) {
        return Err("no shell replaced the variable: write the whole path".into());
    }
    Ok(())
}
