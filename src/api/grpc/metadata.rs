//! What clients say beside their messages: deadlines, keys, expectations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use converge_ledger_core::{Limits, Position, Sequence};
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Status};

use super::Settings;
use super::names;
use super::status::refused;
use crate::{Consistency, Written};

/// The longest idempotency key.
const IDEMPOTENCY_KEY_BYTES: usize = Limits::CONTRACT.idempotency_key_bytes;
/// The answer leaves this part of the client's time-out before its end, within
/// the two bounds below, so that the outcome reaches the client and not its own
/// time-out.
const MARGIN_DIVISOR: u32 = 20;
const MARGIN_MIN: Duration = Duration::from_millis(1);
const MARGIN_MAX: Duration = Duration::from_millis(200);

/// When a request arrived, before its body did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived(pub(super) Instant);

/// Set once a handler hands a call that writes to the ledger: from then on only the ledger knows what became of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Begun(Arc<AtomicBool>);

impl Begun {
    pub(super) fn set(of: &Extensions) {
        if let Some(begun) = of.get::<Begun>() {
            begun.0.store(true, Ordering::Relaxed);
        }
    }

    /// What is known of a call whose handler said nothing.
    pub(super) fn written(&self) -> Written {
        if self.0.load(Ordering::Relaxed) { Written::Perhaps } else { Written::Nothing }
    }
}

/// The value of a header, where it is given once and is printable ASCII.
fn text<'m>(metadata: &'m MetadataMap, name: &'static str) -> Result<Option<&'m str>, Status> {
    let mut values = metadata.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(invalid(name, "is given twice"));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(invalid(name, "is not printable ASCII")),
    }
}

fn invalid(name: &str, why: &str) -> Status {
    refused(Code::InvalidArgument, format!("{name} {why}"))
}

/// `x-idempotency-key`.
pub(super) fn idempotency_key(metadata: &MetadataMap) -> Result<Option<String>, Status> {
    const NAME: &str = names::IDEMPOTENCY_KEY;
    match text(metadata, NAME)? {
        Some("") => Err(invalid(NAME, "is empty: leave it out, or name the call")),
        Some(key) if key.len() > IDEMPOTENCY_KEY_BYTES => {
            Err(invalid(NAME, &format!("has {} bytes: at most {IDEMPOTENCY_KEY_BYTES}", key.len())))
        }
        key => Ok(key.map(str::to_owned)),
    }
}

/// `x-expected-sequence`; 0 expects an empty context.
pub(super) fn expected_sequence(metadata: &MetadataMap) -> Result<Option<Sequence>, Status> {
    Ok(number(metadata, names::EXPECTED_SEQUENCE)?.map(Sequence))
}

/// `x-min-position`.
pub(super) fn min_position(metadata: &MetadataMap) -> Result<Position, Status> {
    Ok(Position(number(metadata, names::MIN_POSITION)?.unwrap_or_default()))
}

fn number(metadata: &MetadataMap, name: &'static str) -> Result<Option<u64>, Status> {
    let Some(value) = text(metadata, name)? else {
        return Ok(None);
    };
    // `parse` alone would take a sign.
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse().ok().filter(|_| digits) {
        Some(number) => Ok(Some(number)),
        None => Err(invalid(name, "is not a number from 0 to 2^64-1")),
    }
}

/// `x-consistency`.
pub(super) fn consistency(metadata: &MetadataMap) -> Result<Consistency, Status> {
    const NAME: &str = names::CONSISTENCY;
    match text(metadata, NAME)? {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("lease") => Ok(Consistency::Lease),
        Some("stale") => Ok(Consistency::Stale),
        Some(_) => Err(invalid(NAME, "is none of linearizable, lease, stale")),
    }
}

/// How long the ledger may take over a call that arrived at `arrived`: what is
/// left of the client's `grpc-timeout`, a little less so that the answer gets
/// there in time. An expired deadline is refused.
pub(super) fn time_left(
    metadata: &MetadataMap,
    arrived: Option<Arrived>,
    settings: &Settings,
) -> Result<Duration, Status> {
    let timeout = match text(metadata, "grpc-timeout")? {
        None => settings.deadline_default,
        Some(value) => {
            grpc_timeout(value).ok_or_else(|| invalid("grpc-timeout", "is not 1 to 8 digits and one of H M S m u n"))?
        }
    };
    let timeout = timeout.min(settings.deadline_max);
    let margin = (timeout / MARGIN_DIVISOR).clamp(MARGIN_MIN, MARGIN_MAX);
    let spent = arrived.map_or(Duration::ZERO, |arrived| arrived.0.elapsed());
    match timeout.checked_sub(margin + spent) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => {
            Err(refused(Code::DeadlineExceeded, "the deadline passed before the call was looked at: give it more time"))
        }
    }
}

/// Parses gRPC's `TimeoutValue TimeoutUnit`.
pub(super) fn grpc_timeout(value: &str) -> Option<Duration> {
    let unit = value.chars().last()?;
    let digits = value.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}
