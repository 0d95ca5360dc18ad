//! Requests to the commit thread, which answers by a message.
//!
//! The caller gives a reference, and gets `{reference, answer, commit}`. The answer is `{:ok,
//! number}` or `{:error, reason}`. The commit is `{nanoseconds, appends, events, bytes}` for one of
//! the callers that it answers, and `nil` for the others.

use foundation_log::commit::QUEUE_MAX;
use foundation_log::{Answer, Append, Refused, Reply, Request, StartAt};
use rustler::types::atom::nil;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term, atoms};

use super::instance::{Subscriber, tell};
use super::{EventLog, event_log, expected, failed, name_of, stream_or_all};
use crate::faults;
use crate::process;
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{OwnedTerm, cell, measure, required_binary, word_term};

nifs! {
    event_log_append / 6,
    event_log_put_snapshot / 5,
    event_log_trim / 4,
    event_log_delete / 4,
    event_log_subscribe / 7,
    event_log_server / 2,
    event_log_release / 3,
    event_log_forget / 3,
    event_log_ack / 3,
    event_log_acknowledged / 2,
    event_log_watch / 4,
}

atoms! { ok, error, none, end, too_large, already_subscribed, appended, system_limit }

/// More bytes than this are copied on a dirty scheduler: 256 KB take some 50 µs.
const COPIED_MAX: usize = 1 << 18;
/// More events than this are copied on a dirty scheduler.
const EVENTS_MAX: usize = 2_000;
/// More bytes than this are refused in one append, whose frames are one commit of one segment.
const APPEND_MAX: usize = 1 << 30;

const _: () = assert!(QUEUE_MAX < 1 << 16, "what waits is bounded");

/// Sends the answer to the caller, with its reference.
fn reply(env: Env, reference: Term) -> Result<Reply, Failure> {
    if !reference.is_ref() {
        return Err(Failure::BadArgument);
    }
    let caller = process::local(process::caller(env));
    let mut message = OwnedEnv::new();
    let reference = message.save(reference);
    Ok(Reply::new(move |answer: Answer| {
        let sent = message.send_and_clear(&caller, |env| {
            let result = match &answer.result {
                Ok(number) => (ok(), *number).encode(env),
                Err(error) => failed(env, error),
            };
            let commit = match answer.commit {
                Some(commit) => (
                    commit.duration.as_nanos() as u64,
                    commit.appends,
                    commit.events,
                    commit.bytes,
                )
                    .encode(env),
                None => nil().encode(env),
            };
            (reference.load(env), result, commit).encode(env)
        });
        sent.is_ok()
    }))
}

/// Hands a request over. Where there is no room it is made again where the call may wait for it.
fn hand_over<'a>(env: Env<'a>, log: &EventLog, request: Request) -> NifResult<'a> {
    let handed = if may_take_long() {
        log.log.request_waiting(request)
    } else {
        log.log.request(request)
    };
    match handed {
        Ok(()) => Ok(ok().encode(env)),
        Err(Refused::Full(request)) => {
            request.discard();
            Err(Failure::DoesIo)
        }
        Err(Refused::Closed(request)) => {
            request.discard();
            Ok(nil().encode(env))
        }
    }
}

/// The binaries of a list and the sum of their lengths. Many events, or large ones, are left to a
/// dirty scheduler.
fn binaries<'a>(list: Term<'a>) -> Result<(Vec<&'a [u8]>, usize), Failure> {
    let (mut rest, mut all, mut total) = (list, Vec::new(), 0);
    while let Some((head, tail)) = cell(rest) {
        let event = required_binary(head)?;
        total += event.len();
        all.push(event);
        rest = tail;
        if (total > COPIED_MAX || all.len() > EVENTS_MAX) && !may_take_long() {
            return Err(Failure::TakesLong);
        }
    }
    if rest.is_empty_list() {
        Ok((all, total))
    } else {
        Err(Failure::BadArgument)
    }
}

/// `event_log_append(name, stream, expected, at, events, reference)`; an event is a binary.
fn event_log_append<'a>(env: Env<'a>, arguments: [Term<'a>; 6]) -> NifResult<'a> {
    let [name, stream, expected_term, at, events, reference] = arguments;
    let log = event_log!(env, name);
    let stream = name_of(stream)?;
    let expected = expected(expected_term)?;
    let at = at.decode().map_err(|_| Failure::BadArgument)?;
    let (events, total) = binaries(events)?;
    let limit = log.max_event_bytes();
    if total > APPEND_MAX || events.iter().any(|event| event.len() as u64 > limit) {
        return Ok(too_large().encode(env));
    }
    let mut data = Vec::with_capacity(total);
    let mut ends = Vec::with_capacity(events.len());
    for event in events {
        data.extend_from_slice(event);
        ends.push(data.len() as u32);
    }
    let append = Append {
        stream: stream.into(),
        expected,
        at,
        data,
        ends,
    };
    let request = Request::Append(append, reply(env, reference)?);
    hand_over(env, &log, request)
}

/// `event_log_put_snapshot(name, stream, version, state, reference)`.
fn event_log_put_snapshot<'a>(env: Env<'a>, arguments: [Term<'a>; 5]) -> NifResult<'a> {
    let [name, stream, version, state, reference] = arguments;
    let log = event_log!(env, name);
    let stream = name_of(stream)?;
    let version = version.decode().map_err(|_| Failure::BadArgument)?;
    let state = required_binary(state)?;
    if state.len() > APPEND_MAX / 2 {
        return Ok(too_large().encode(env));
    }
    if state.len() > COPIED_MAX && !may_take_long() {
        return Err(Failure::TakesLong);
    }
    let request = Request::PutSnapshot {
        stream: stream.into(),
        version,
        state: state.into(),
        reply: reply(env, reference)?,
    };
    hand_over(env, &log, request)
}

/// A request that changes a stream: its argument is decoded before the caller waits for a reply.
fn change<'a, T>(
    env: Env<'a>,
    [name, stream, argument, reference]: [Term<'a>; 4],
    decode: impl FnOnce(Term<'a>) -> Result<T, Failure>,
    request: impl FnOnce(Box<[u8]>, T, Reply) -> Request,
) -> NifResult<'a> {
    let log = event_log!(env, name);
    let (stream, argument) = (name_of(stream)?, decode(argument)?);
    let request = request(stream.into(), argument, reply(env, reference)?);
    hand_over(env, &log, request)
}

/// `event_log_trim(name, stream, before, reference)`.
fn event_log_trim<'a>(env: Env<'a>, arguments: [Term<'a>; 4]) -> NifResult<'a> {
    let before = |term: Term| term.decode::<u64>().map_err(|_| Failure::BadArgument);
    change(env, arguments, before, |stream, before, reply| {
        Request::Trim {
            stream,
            before,
            reply,
        }
    })
}

/// `event_log_delete(name, stream, expected, reference)`.
fn event_log_delete<'a>(env: Env<'a>, arguments: [Term<'a>; 4]) -> NifResult<'a> {
    change(env, arguments, expected, |stream, expected, reply| {
        Request::Delete {
            stream,
            expected,
            reply,
        }
    })
}

fn local_pid(term: Term) -> Result<u64, Failure> {
    let pid: LocalPid = term.decode().map_err(|_| Failure::BadArgument)?;
    Ok(process::owner_of(pid))
}

/// `event_log_subscribe(name, subscription, stream | :all, after | :end, subscriber, reference,
/// arguments)`: the caller sends the events to the subscriber.
fn event_log_subscribe<'a>(env: Env<'a>, arguments: [Term<'a>; 7]) -> NifResult<'a> {
    let [
        name,
        key,
        stream,
        start,
        subscriber,
        reference,
        started_with,
    ] = arguments;
    let log = event_log!(env, name);
    let key = name_of(key)?;
    let stream = stream_or_all(stream)?;
    let start = if start == end().encode(env) {
        StartAt::End
    } else {
        StartAt::After(start.decode().map_err(|_| Failure::BadArgument)?)
    };
    let subscriber = local_pid(subscriber)?;
    let server = process::caller(env);
    measure(started_with)?;
    let Some(arguments) = OwnedTerm::new(started_with) else {
        return Ok((error(), system_limit()).encode(env));
    };
    let reply = reply(env, reference)?;
    let mut subscribers = log.subscribers();
    if let Some(other) = subscribers.get(key)
        && other.server != server
        && process::is_alive(env, other.server)
        && process::is_alive(env, other.subscriber)
    {
        let reason = (already_subscribed(), word_term(env, other.subscriber));
        // The caller gets no message.
        discard(reply);
        return Ok((error(), reason).encode(env));
    }
    let new = Subscriber {
        subscriber,
        server,
        told: false,
        arguments,
    };
    subscribers.insert(key.into(), new);
    drop(subscribers);
    let request = Request::Subscribe {
        name: key.into(),
        stream: stream.map(Into::into),
        start,
        reply,
    };
    hand_over(env, &log, request)
}

/// A reply that is not wanted: one that is dropped says that the log is closed.
fn discard(reply: Reply) {
    let name = Box::default();
    Request::Forget { name, reply }.discard();
}

/// The process that sends the events of a subscription, or `:none`.
fn event_log_server<'a>(env: Env<'a>, [name, key]: [Term<'a>; 2]) -> NifResult<'a> {
    let log = event_log!(env, name);
    let key = name_of(key)?;
    let server = log.subscribers().get(key).map(|it| it.server);
    Ok(server.map_or_else(|| none().encode(env), |server| word_term(env, server)))
}

/// The calling server sends no more events.
fn event_log_release<'a>(env: Env<'a>, [name, key, stream]: [Term<'a>; 3]) -> NifResult<'a> {
    let log = event_log!(env, name);
    let key = name_of(key)?;
    let stream = stream_or_all(stream)?;
    let server = process::caller(env);
    let mut subscribers = log.subscribers();
    if subscribers.get(key).is_some_and(|it| it.server == server) {
        subscribers.remove(key);
    }
    drop(subscribers);
    log.log.unwatch(stream, server);
    Ok(ok().encode(env))
}

fn event_log_forget<'a>(env: Env<'a>, [name, key, reference]: [Term<'a>; 3]) -> NifResult<'a> {
    let log = event_log!(env, name);
    let key = name_of(key)?;
    let request = Request::Forget {
        name: key.into(),
        reply: reply(env, reference)?,
    };
    hand_over(env, &log, request)
}

/// Notes an acknowledgement, and answers the server that is to be told: at most one message to it
/// is outstanding.
fn event_log_ack<'a>(env: Env<'a>, [name, key, number]: [Term<'a>; 3]) -> NifResult<'a> {
    let log = event_log!(env, name);
    let key = name_of(key)?;
    let number = number.decode().map_err(|_| Failure::BadArgument)?;
    log.log.acknowledge(key, number);
    let mut subscribers = log.subscribers();
    let server = subscribers.get_mut(key).and_then(|subscriber| {
        let told = std::mem::replace(&mut subscriber.told, true);
        (!told).then_some(subscriber.server)
    });
    Ok(server.map_or_else(|| ok().encode(env), |server| word_term(env, server)))
}

/// The last number that was acknowledged; `:error` if the caller is not the server any longer.
fn event_log_acknowledged<'a>(env: Env<'a>, [name, key]: [Term<'a>; 2]) -> NifResult<'a> {
    let log = event_log!(env, name);
    let key = name_of(key)?;
    let mut subscribers = log.subscribers();
    match subscribers.get_mut(key) {
        Some(subscriber) if subscriber.server == process::caller(env) => subscriber.told = false,
        _ => return Ok(error().encode(env)),
    }
    drop(subscribers);
    let number = log.log.acknowledged(key);
    Ok(number.map_or_else(|| error().encode(env), |number| number.encode(env)))
}

/// `event_log_watch(name, stream | :all, number, pid)`: one message to the process when there is an
/// event after `number`.
fn event_log_watch<'a>(env: Env<'a>, [name, stream, number, pid]: [Term<'a>; 4]) -> NifResult<'a> {
    let log = event_log!(env, name);
    let stream = stream_or_all(stream)?;
    let number = number.decode().map_err(|_| Failure::BadArgument)?;
    let pid = local_pid(pid)?;
    let wake = Box::new(move || {
        faults::reach(c"wake a subscription");
        tell(None, pid, appended());
    });
    if log.log.watch(stream, pid, number, wake) {
        tell(Some(env), pid, appended());
    }
    Ok(ok().encode(env))
}
