//! What one child alone can have: a service's slot, a dynamic supervisor's handle, a latch.
//!
//! Found out before anything starts, where one specification gives it to two. Where two specifications do, the second
//! child does not start (a slot that is filled, a handle whose supervisor runs).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::spec::{Body, ChildSpec, SpecError};

/// Whose what is: a word for it, and which one.
type Owners<'a> = BTreeMap<(&'static str, usize), Holder<'a>>;

struct Holder<'a> {
    name: &'a str,
    path: String,
}

/// Refuses children that are given the same one.
pub(crate) fn check(children: &[ChildSpec]) -> Result<(), SpecError> {
    note("", children, &mut Owners::new())
}

fn note<'a>(above: &str, children: &'a [ChildSpec], owners: &mut Owners<'a>) -> Result<(), SpecError> {
    for child in children {
        let path = format!("{above}{}", child.id);
        let mut claim = |what, which, name| own(owners, (what, which), Holder { name, path: path.clone() });
        if let Some((which, name)) = child.service {
            claim("service", which, name)?;
        }
        for latch in &child.latches {
            claim("latch", latch.identity(), latch.name())?;
        }
        match &child.body {
            Body::Dynamic(spec) => claim("dynamic supervisor", Arc::as_ptr(spec) as usize, "")?,
            Body::Supervisor(spec) => note(&format!("{path}/"), &spec.children, owners)?,
            Body::Worker(_) | Body::Spent => {}
        }
    }
    Ok(())
}

fn own<'a>(owners: &mut Owners<'a>, key: (&'static str, usize), owner: Holder<'a>) -> Result<(), SpecError> {
    let what = key.0;
    match owners.get(&key) {
        Some(first) if first.path != owner.path => {
            let name = if owner.name.is_empty() { String::new() } else { format!(" {:?}", owner.name) };
            let (one, other) = (&first.path, &owner.path);
            Err(SpecError(format!("the {what}{name} is given to {one} and to {other}: make one for each of them")))
        }
        _ => {
            owners.insert(key, owner);
            Ok(())
        }
    }
}
