//! Texts that name something outside: addresses, directories, names. One strict parser for flags, file and environment.
//!
//! What is refused here would otherwise be found out late, or never: a name with a line end in it is another cluster, an
//! address with a space never resolves, a `~` that no shell replaced is a directory of that name.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV6};

/// The longest host name, and the longest part of one (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
const NO_HOST: &str = "it has no host";

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
        let parsed = match something_else(text) {
            None => split(text).and_then(|(host, port)| Ok(Address { host, port: self::port(port, port_min)? })),
            Some(why) => Err(why),
        };
        parsed.map_err(|why| {
            // An address to listen at may have the port 0.
            let every = if why == NO_HOST && port_min == 0 { " (0.0.0.0 is every one of this machine)" } else { "" };
            format!(
                "{why}{every}; an address is written host:port or [IPv6]:port, with a port from {port_min} to 65535"
            )
        })
    }

    /// Listens on every address, which is nothing to connect to.
    pub(super) fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

/// What is written in place of one address.
fn something_else(text: &str) -> Option<&'static str> {
    let blank = |c: char| c.is_whitespace() || c.is_control();
    match () {
        () if text.is_empty() => Some("it is empty"),
        () if text.contains(';') => Some("there is a ; in it, and a list is separated by commas"),
        () if text.contains(',') => Some("there is a comma in it, and this is one address"),
        () if text.trim_matches(blank).contains(blank) => {
            Some("there is white space in it, and a list is separated by commas")
        }
        () if text.contains(blank) => Some("there is white space around it"),
        () if text.contains("://") => Some("it is a URL"),
        () if text.contains(['/', '?', '#']) => Some("there is a path in it, or a part of one"),
        () if text.contains('@') => Some("there is a user's name in it"),
        () if text.contains('=') => Some("there is a = in it, and only a peer of the list has an id"),
        () => None,
    }
}

/// The host and the port, which may be none yet.
fn split(text: &str) -> Result<(&str, &str), &'static str> {
    const NO_PORT: &str = "it has no port";
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("its bracket is not closed")?;
        // With a port, because only so may it name an interface.
        if format!("[{host}]:0").parse::<SocketAddrV6>().is_err() {
            return Err("what stands in brackets is no IPv6 address (an interface has a number: [fe80::1%2]:port)");
        }
        return port.strip_prefix(':').filter(|port| !port.is_empty()).map(|port| (host, port)).ok_or(NO_PORT);
    }
    let (host, port) = text.rsplit_once(':').ok_or(NO_PORT)?;
    match () {
        () if host.contains(':') => Err("there is more than one : in it, and an IPv6 address stands in brackets"),
        () if host.is_empty() => Err(NO_HOST),
        () if port.is_empty() => Err(NO_PORT),
        () => is_host(host).map(|()| (host, port)),
    }
}

fn port(text: &str, min: u16) -> Result<u16, &'static str> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("its port is no number");
    }
    let port = text.parse::<u16>().ok().filter(|port| *port >= min && text.len() <= 5);
    port.ok_or("its port is not possible")
}

fn is_host(host: &str) -> Result<(), &'static str> {
    let labels = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // No top-level name is a number, so this is meant to be an IPv4 address. Resolvers take more forms of one than the
    // four numbers, each its own way.
    if labels.rsplit('.').next().is_some_and(is_number) {
        let parsed = host.parse::<Ipv4Addr>();
        return parsed.map(drop).map_err(|_| "its host is no IPv4 address, which is four numbers from 0 to 255");
    }
    match host.len() <= NAME_BYTES_MAX && labels.split('.').all(is_label) {
        true => Ok(()),
        false => Err("its host is neither a name nor an IP address"),
    }
}

/// Decimal or hexadecimal, as in the hosts of URLs.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or(label.strip_prefix("0X"));
    hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        || !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit())
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
