//! Questions of the C library, and the gateway's answers as statuses.

use errno::{Errno, errno, set_errno};
use libnss::group::{Group, GroupHooks};
use libnss::initgroups::InitgroupsHooks;
use libnss::interop::Response;
use libnss::passwd::{Passwd, PasswdHooks};
use quorate_nss_protocol::{self as protocol, Answer, Database, Found, Query, Request};

use crate::ask::{Gateway, Unavailable};

/// The databases.
pub struct Quorate;

/// Makes the status of an outcome. Callers such as `getpwnam_r` see no status but `errno`: success and absence leave it as it
/// was, and everything else must not look like absence, so it is an I/O error.
fn respond<R>(outcome: impl FnOnce() -> Result<Option<R>, Unavailable>) -> Response<R> {
    let before = errno();
    match outcome() {
        Ok(found) => {
            set_errno(before);
            found.map_or(Response::NotFound, Response::Success)
        }
        Err(Unavailable) => {
            set_errno(Errno(libc::EIO));
            Response::Unavail
        }
    }
}

fn users(answer: Answer) -> Option<Vec<protocol::Passwd>> {
    match answer {
        Answer::Found(Found::Passwd(users)) => Some(users),
        _ => None,
    }
}

fn groups(answer: Answer) -> Option<Vec<protocol::Group>> {
    match answer {
        Answer::Found(Found::Group(groups)) => Some(groups),
        _ => None,
    }
}

/// The one line that a lookup finds; none when it is proved that there is none.
fn one<T>(
    database: Database,
    query: Query,
    read: impl FnOnce(Answer) -> Option<Vec<T>>,
) -> Result<Option<T>, Unavailable> {
    match Gateway::connect()?.ask(&Request { database, query })? {
        Answer::Absent => Ok(None),
        answer => read(answer).and_then(|lines| lines.into_iter().next()).map(Some).ok_or(Unavailable),
    }
}

fn user(query: Query) -> Result<Option<Passwd>, Unavailable> {
    Ok(one(Database::Passwd, query, users)?.map(passwd))
}

fn passwd(user: protocol::Passwd) -> Passwd {
    let protocol::Passwd { name, uid, gid, gecos, home, shell } = user;
    Passwd { name, passwd: "x".to_owned(), uid, gid, gecos, dir: home, shell }
}

fn group(group: protocol::Group) -> Group {
    let protocol::Group { name, gid } = group;
    Group { name, passwd: "x".to_owned(), gid, members: Vec::new() }
}

impl PasswdHooks for Quorate {
    fn get_all_entries() -> Response<Vec<Passwd>> {
        respond(|| {
            let request = |query| Request { database: Database::Passwd, query };
            let read = |answer, entries: &mut Vec<Passwd>| {
                let users = users(answer)?;
                let last = users.last()?.uid;
                entries.extend(users.into_iter().map(passwd));
                Some(last)
            };
            Gateway::connect()?.list(request, read).map(Some)
        })
    }

    fn get_entry_by_uid(uid: libc::uid_t) -> Response<Passwd> {
        respond(|| user(Query::Id(uid)))
    }

    fn get_entry_by_name(name: String) -> Response<Passwd> {
        respond(|| user(Query::Name(name)))
    }
}

impl GroupHooks for Quorate {
    fn get_all_entries() -> Response<Vec<Group>> {
        respond(|| {
            let request = |query| Request { database: Database::Group, query };
            let read = |answer, entries: &mut Vec<Group>| {
                let groups = groups(answer)?;
                let last = groups.last()?.gid;
                entries.extend(groups.into_iter().map(group));
                Some(last)
            };
            Gateway::connect()?.list(request, read).map(Some)
        })
    }

    fn get_entry_by_gid(gid: libc::gid_t) -> Response<Group> {
        respond(|| Ok(one(Database::Group, Query::Id(gid), groups)?.map(group)))
    }

    fn get_entry_by_name(name: String) -> Response<Group> {
        respond(|| Ok(one(Database::Group, Query::Name(name), groups)?.map(group)))
    }
}

impl InitgroupsHooks for Quorate {
    /// The registry has no supplementary groups: a user it knows is in none besides the primary one, which the caller has.
    fn get_entries_by_user(name: String) -> Response<Vec<Group>> {
        respond(|| Ok(user(Query::Name(name))?.map(|_| Vec::new())))
    }
}
