//! What travels between nodes, for people who read a trace.

use bytes::Bytes;

use super::said::{Contents, said};

pub(super) fn describe(payload: &Bytes) -> String {
    match said(payload) {
        Err(error) => format!("not a frame: {error}"),
        Ok(Contents::Append { term, after, last, commit }) => {
            format!("append {after}..{last}, term {term}, commit {commit}")
        }
        Ok(Contents::AppendAnswer { term, index, rejected }) => {
            let verdict = if rejected { "no" } else { "have" };
            format!("{verdict} {index}, term {term}")
        }
        Ok(Contents::Heartbeat { term, commit }) => format!("heartbeat, term {term}, commit {commit}"),
        Ok(Contents::VoteRequest { term }) => format!("vote for me in term {term}"),
        Ok(Contents::VoteAnswer { term, granted }) => {
            format!("vote {}, term {term}", if granted { "given" } else { "refused" })
        }
        Ok(Contents::Other(what)) => what.to_owned(),
    }
}
