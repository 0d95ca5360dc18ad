//! The NIFs of circuit breakers.

use std::sync::{Arc, PoisonError};

use foundation_core::breaker::{
    Breaker, Breakers, Figures, Outcome, Phase, Refusal, Settings, Span, Transition,
};
use foundation_core::key::Seed;
use foundation_core::permits::Undecided;
use foundation_core::table::pin;
use rustler::{Encoder, Env, Term, atoms};

use super::instance::{CircuitBreaker, Core, Instance, lock, random, settings, target};
use super::{
    MS, adopt_timeout, bound, local_process, milliseconds, named, natural, natural_32, nil,
    no_state, start, with_optional_key,
};
use crate::process::caller;
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::telemetry::clock;
use crate::term::{OwnedTerm, key_term, measure, pair, tuple};

nifs! {
    breaker_start / 5,
    breaker_ask / 1,
    breaker_record / 4,
    breaker_state / 1,
    breaker_info / 1,
    breaker_isolate / 1,
    breaker_reset / 1,
    breaker_classify / 1,
    breaker_take_transitions / 1,
    breaker_tripped / 2,
}

atoms! {
    ok, error, ignore, closed, open, half_open, isolated, probing, changed, count, time, default,
    exiting, done, bare, key,
}

/// How many keys are looked at in one call.
const VISITED_MAX: usize = 500;

fn rate(term: Term) -> Result<f64, Failure> {
    let whole = || term.decode::<u32>().map(f64::from);
    term.decode::<f64>()
        .or_else(|_| whole())
        .map_err(|_| Failure::BadArgument)
}

fn span(term: Term) -> Result<Span, Failure> {
    let env = term.get_env();
    let (kind, size) = crate::term::as_pair(term).ok_or(Failure::BadArgument)?;
    match kind {
        kind if kind == count().to_term(env) => Ok(Span::Count(natural_32(size)?.max(1))),
        kind if kind == time().to_term(env) => Ok(Span::Time(nanoseconds(size)?)),
        _ => Err(Failure::BadArgument),
    }
}

fn nanoseconds(term: Term) -> Result<u64, Failure> {
    Ok(natural(term)?.saturating_mul(MS))
}

/// `[window, min_calls, failure_rate, slow_ms, slow_rate, open_ms, max_open_ms, jitter, probes,
/// probe_timeout_ms]`
fn decode_settings(term: Term) -> Result<Settings, Failure> {
    let given = crate::term::elements(term, Some)?;
    let [
        window,
        min_calls,
        failure_rate,
        slow,
        slow_rate,
        open,
        max_open,
        jitter,
        probes,
        probe_timeout,
    ] = given[..]
    else {
        return Err(Failure::BadArgument);
    };
    Ok(Settings {
        span: span(window)?,
        min_calls: natural_32(min_calls)?,
        failure_rate: rate(failure_rate)?,
        slow: bound(slow)?.map(|slow| slow.saturating_mul(MS)),
        slow_rate: rate(slow_rate)?,
        open: nanoseconds(open)?,
        max_open: nanoseconds(max_open)?,
        jitter: rate(jitter)?,
        probes: natural_32(probes)?,
        probe_timeout: nanoseconds(probe_timeout)?,
    })
}

/// `breaker_start(name, settings, classify, max_keys, adopt_timeout)`; `classify` is kept as it is.
fn breaker_start<'a>(env: Env<'a>, arguments: [Term<'a>; 5]) -> NifResult<'a> {
    let [name, given, classify, max_keys, timeout] = arguments;
    let (given, max_keys) = (decode_settings(given)?, natural(max_keys)?);
    let timeout = adopt_timeout(timeout)?;
    measure(classify)?;
    let is_default = classify == default().to_term(env);
    let kept = || (!is_default).then(|| OwnedTerm::new(classify)).flatten();
    let create = || {
        let breakers = Breakers::new(Seed::random(), max_keys)?;
        Ok(Core::CircuitBreaker(CircuitBreaker::new(
            breakers,
            given,
            kept(),
        )))
    };
    start(env, name, timeout, create, |instance| {
        let Some(breaker) = instance.circuit_breaker() else {
            return false;
        };
        breaker.breakers.keyed().set_max_keys(max_keys);
        *breaker
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = given;
        *lock(&breaker.classify) = kept();
        true
    })
}

fn with_breaker<'a>(
    env: Env<'a>,
    term: Term<'a>,
    then: impl FnOnce(&Arc<Instance>, &CircuitBreaker, Option<Term<'a>>) -> NifResult<'a>,
) -> NifResult<'a> {
    let (name, key) = target(term)?;
    let guard = pin();
    let instance = named(name, &guard);
    match instance.and_then(|instance| Some((instance, instance.circuit_breaker()?))) {
        Some((instance, breaker)) => then(instance, breaker, key),
        None => nil(env),
    }
}

fn phase_term(env: Env<'_>, phase: Phase) -> Term<'_> {
    match phase {
        Phase::Closed => closed(),
        Phase::Open => open(),
        Phase::HalfOpen => half_open(),
        Phase::Isolated => isolated(),
    }
    .to_term(env)
}

/// `{state, calls, failures, slow, open_ms}`
fn transition_term(env: Env<'_>, transition: Transition) -> Term<'_> {
    let numbers = [transition.calls, transition.failures, transition.slow];
    let [calls, failures, slow] = numbers.map(|number| number.encode(env));
    let open = milliseconds(transition.open).encode(env);
    tuple(
        env,
        [phase_term(env, transition.to), calls, failures, slow, open],
    )
}

/// The answer, or `{:changed, answer, transitions}`.
fn with_transitions<'a>(env: Env<'a>, answer: Term<'a>, transitions: &[Transition]) -> Term<'a> {
    if transitions.is_empty() {
        return answer;
    }
    let transitions = transitions.iter().map(|one| transition_term(env, *one));
    let transitions: Vec<_> = transitions.collect();
    (changed(), answer, transitions).encode(env)
}

/// An id, `{:open, ms}`, `:isolated`, `:probing` or `:max_keys`; see [`with_transitions`].
fn breaker_ask<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_breaker(env, name, |instance, breaker, key_term| {
        let (settings, owner) = (|| settings(&breaker.settings), caller(env));
        let watch = || instance.watch(env, owner);
        let (mut transitions, patient) = (Vec::new(), may_take_long());
        with_optional_key(key_term, |key| {
            let asked = breaker.breakers.ask(
                settings,
                owner,
                key,
                patient,
                clock::now,
                watch,
                &mut transitions,
            );
            let answer = match asked {
                Ok(Ok(id)) => id.encode(env),
                Ok(Err(Refusal::Open(later))) => {
                    pair(env, open().to_term(env), milliseconds(later).encode(env))
                }
                Ok(Err(Refusal::Isolated)) => isolated().to_term(env),
                Ok(Err(Refusal::Probing)) => probing().to_term(env),
                Err(Undecided::Dead) => exiting().to_term(env),
                Err(Undecided::NoState(error)) => no_state(env, error)?,
            };
            Ok(with_transitions(env, answer, &transitions))
        })
    })
}

/// `breaker_record(name, pid, id, outcome)`: `:ok`; see [`with_transitions`].
fn breaker_record<'a>(env: Env<'a>, [name, pid, id, outcome]: [Term<'a>; 4]) -> NifResult<'a> {
    let (owner, id) = (local_process(pid)?, natural(id)?);
    let outcome = match outcome {
        outcome if outcome == ok().to_term(env) => Outcome::Ok,
        outcome if outcome == error().to_term(env) => Outcome::Error,
        outcome if outcome == ignore().to_term(env) => Outcome::Ignore,
        _ => return Err(Failure::BadArgument),
    };
    with_breaker(env, name, |_instance, breaker, _key| {
        let (settings, mut transitions) = (settings(&breaker.settings), Vec::new());
        let time = (clock::now, random());
        breaker
            .breakers
            .record(&settings, (owner, id), outcome, time, &mut transitions);
        Ok(with_transitions(env, ok().to_term(env), &transitions))
    })
}

fn breaker_state<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_breaker(env, name, |_instance, breaker, key_term| {
        with_optional_key(key_term, |key| {
            let keyed = breaker.breakers.keyed();
            let phase = keyed.read(key, |_, breaker| breaker.phase());
            Ok(phase_term(env, phase.unwrap_or(Phase::Closed)))
        })
    })
}

/// `{state, calls, failures, slow, retry_after_ms, rejected, opened, probes}`
fn breaker_info<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_breaker(env, name, |_instance, breaker, key_term| {
        let settings = settings(&breaker.settings);
        with_optional_key(key_term, |key| {
            let keyed = breaker.breakers.keyed();
            let read = keyed.read(key, |_, breaker| breaker.figures(&settings, clock::now()));
            let figures = read.unwrap_or_else(|| Breaker::default().figures(&settings, 0));
            Ok(figures_term(env, figures))
        })
    })
}

fn figures_term(env: Env<'_>, figures: Figures) -> Term<'_> {
    let retry_after = figures.retry_after.map(milliseconds);
    let terms = [
        phase_term(env, figures.phase),
        figures.calls.encode(env),
        figures.failures.encode(env),
        figures.slow.encode(env),
        retry_after.encode(env),
        figures.rejected.encode(env),
        figures.opened.encode(env),
        figures.probes.encode(env),
    ];
    tuple(env, terms)
}

fn breaker_isolate<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_breaker(env, name, |_instance, breaker, key_term| {
        let (mut transitions, patient) = (Vec::new(), may_take_long());
        with_optional_key(key_term, |key| {
            let isolate = |breaker: &mut Breaker| breaker.isolate(clock::now(), &mut transitions);
            match breaker.breakers.change(key, patient, clock::now, isolate) {
                Ok(()) => Ok(with_transitions(env, ok().to_term(env), &transitions)),
                Err(error) => no_state(env, error),
            }
        })
    })
}

fn breaker_reset<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_breaker(env, name, |_instance, breaker, key_term| {
        let mut transitions = Vec::new();
        with_optional_key(key_term, |key| {
            let keyed = breaker.breakers.keyed();
            keyed.read(key, |_, breaker| {
                breaker.reset(clock::now(), &mut transitions)
            });
            Ok(with_transitions(env, ok().to_term(env), &transitions))
        })
    })
}

/// The classifier of the breaker, or `:default`.
fn breaker_classify<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_breaker(env, name, |_instance, breaker, _key| {
        match &*lock(&breaker.classify) {
            Some(classify) => Ok(classify.copy(env)),
            None => Ok(default().to_term(env)),
        }
    })
}

/// The changes of state that deaths have brought about: `[{:bare | {:key, key}, transition}]`.
fn breaker_take_transitions<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_breaker(env, name, |_instance, breaker, _key| {
        let keyed = breaker.breakers.keyed();
        let pending = breaker.take_pending().into_iter();
        let told: Vec<_> = pending
            .filter_map(|(cell, transition)| {
                let of = if keyed.is_bare(&cell) {
                    bare().to_term(env)
                } else {
                    keyed.with_key_of(&cell, |view| {
                        view.map(|view| (key(), key_term(env, &view)).encode(env))
                    })?
                };
                Some(pair(env, of, transition_term(env, transition)))
            })
            .collect();
        Ok(told.encode(env))
    })
}

/// The keys whose breaker is not closed, `[{:bare | {:key, key}, state}]`: a chunk, and the next
/// cursor or `:done`.
fn breaker_tripped<'a>(env: Env<'a>, [name, from]: [Term<'a>; 2]) -> NifResult<'a> {
    let from = natural(from)?;
    with_breaker(env, name, |_instance, breaker, _key| {
        let (keyed, mut found) = (breaker.breakers.keyed(), Vec::new());
        let next = keyed.walk(from, VISITED_MAX, |cell, key_view| {
            let phase = keyed.change(cell, |_, breaker| breaker.phase());
            let phase = phase.unwrap_or(Phase::Closed);
            if phase != Phase::Closed {
                let of = match key_view {
                    None => bare().to_term(env),
                    Some(view) => (key(), key_term(env, &view)).encode(env),
                };
                found.push(pair(env, of, phase_term(env, phase)));
            }
        });
        let next = next.map_or_else(|| done().to_term(env), |hash| hash.encode(env));
        Ok((found, next).encode(env))
    })
}
