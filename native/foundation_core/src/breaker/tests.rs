use proptest::prelude::*;

use super::*;
use crate::key::NoOpaque;

const MS: u64 = 1_000_000;

fn settings() -> Settings {
    Settings {
        span: Span::Count(10),
        min_calls: 4,
        failure_rate: 0.5,
        slow: Some(100 * MS),
        slow_rate: 0.75,
        open: 1_000 * MS,
        max_open: 5_000 * MS,
        jitter: 0.0,
        probes: 2,
        probe_timeout: 500 * MS,
    }
}

/// The same breaker, said plainly: all calls are kept, and counted anew each time.
struct Model {
    phase: Phase,
    generation: u64,
    calls: Vec<(u64, bool, bool)>,
    probes: Vec<(u64, u64)>,
    good: u32,
    opened_in_row: u32,
    until: u64,
    opened: u32,
}

impl Model {
    fn new() -> Self {
        Model {
            phase: Phase::Closed,
            generation: 0,
            calls: Vec::new(),
            probes: Vec::new(),
            good: 0,
            opened_in_row: 0,
            until: 0,
            opened: 0,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
        self.probes.clear();
        self.good = 0;
        if phase == Phase::Closed {
            self.calls.clear();
            self.opened_in_row = 0;
        }
    }

    fn open(&mut self, settings: &Settings, now: u64) {
        let doubled = (0..self.opened_in_row).fold(settings.open, |open, _| open.saturating_mul(2));
        self.until = now + doubled.min(settings.max_open);
        self.opened_in_row += 1;
        self.opened += 1;
        self.enter(Phase::Open);
    }

    fn window(&self, settings: &Settings, now: u64) -> (u32, u32, u32) {
        let counts = |calls: &mut dyn Iterator<Item = &(u64, bool, bool)>| {
            calls.fold(
                (0, 0, 0),
                |(calls, failures, slow), (_, failed, is_slow)| {
                    (
                        calls + 1,
                        failures + u32::from(*failed),
                        slow + u32::from(*is_slow),
                    )
                },
            )
        };
        match settings.span {
            Span::Count(size) => counts(&mut self.calls.iter().rev().take(size as usize)),
            Span::Time(time) => {
                let slice = time / SLICES;
                let is_in = |at: u64| at / slice + SLICES >= now / slice;
                counts(&mut self.calls.iter().filter(|(at, ..)| is_in(*at)))
            }
        }
    }

    fn ask(&mut self, settings: &Settings, id: u64, now: u64) -> Result<(u64, bool), Refusal> {
        self.probes.retain(|(_, expires)| now < *expires);
        match self.phase {
            Phase::Closed => return Ok((self.generation, false)),
            Phase::Isolated => return Err(Refusal::Isolated),
            Phase::Open if now < self.until => return Err(Refusal::Open(self.until - now)),
            Phase::Open => self.enter(Phase::HalfOpen),
            Phase::HalfOpen => {}
        }
        if self.probes.len() >= settings.probes as usize {
            return Err(Refusal::Probing);
        }
        self.probes.push((id, now + settings.probe_timeout));
        Ok((self.generation, true))
    }

    fn end(&mut self, settings: &Settings, id: u64, call: (u64, u64, bool), end: End, now: u64) {
        let (started, generation, is_probe) = call;
        let slow = settings.slow.is_some_and(|slow| now - started >= slow);
        self.probes.retain(|(_, expires)| now < *expires);
        if is_probe {
            let before = self.probes.len();
            self.probes.retain(|(other, _)| *other != id);
            if before == self.probes.len() {
                return;
            }
            match end {
                End::Recorded(Outcome::Ignore) => {}
                End::Recorded(Outcome::Ok) if !slow => {
                    self.good += 1;
                    if self.good >= settings.probes {
                        self.enter(Phase::Closed);
                    }
                }
                End::Recorded(_) | End::Died => self.open(settings, now),
            }
            return;
        }
        let (End::Recorded(outcome), true) = (end, generation == self.generation) else {
            return;
        };
        if outcome == Outcome::Ignore {
            return;
        }
        self.calls.push((now, outcome == Outcome::Error, slow));
        let (calls, failures, slow) = self.window(settings, now);
        let too_many = f64::from(failures) / f64::from(calls) >= settings.failure_rate
            || settings.slow.is_some() && f64::from(slow) / f64::from(calls) >= settings.slow_rate;
        if calls >= settings.min_calls && too_many {
            self.open(settings, now);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum End {
    Recorded(Outcome),
    Died,
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Ask,
    End(prop::sample::Index, End),
    Forget(prop::sample::Index),
    Isolate,
    Reset,
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        4 => Just(End::Recorded(Outcome::Ok)),
        4 => Just(End::Recorded(Outcome::Error)),
        1 => Just(End::Recorded(Outcome::Ignore)),
        1 => Just(End::Died),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..2_000).prop_map(Step::Wait),
        4 => (0u64..40).prop_map(Step::Wait),
        12 => Just(Step::Ask),
        12 => (any::<prop::sample::Index>(), end()).prop_map(|(which, end)| Step::End(which, end)),
        1 => any::<prop::sample::Index>().prop_map(Step::Forget),
        1 => Just(Step::Isolate),
        1 => Just(Step::Reset),
    ]
}

fn span() -> impl Strategy<Value = Span> {
    prop_oneof![
        (4u32..80).prop_map(Span::Count),
        (160u64..3_000).prop_map(|ms| Span::Time(ms * MS)),
    ]
}

proptest! {
    #[test]
    fn a_breaker_is_its_model(
        steps in prop::collection::vec(step(), 1..300),
        span in span(),
        probes in 1u32..4,
    ) {
        let settings = Settings { span, probes, ..settings() };
        let (mut breaker, mut model) = (Breaker::default(), Model::new());
        let (mut now, mut next) = (1_000_000 * MS, 0);
        let mut out: Vec<(u64, Admitted, (u64, u64, bool))> = Vec::new();
        for step in steps {
            let mut changed = Vec::new();
            match step {
                Step::Wait(ms) => now += ms * MS,
                Step::Ask => {
                    next += 1;
                    let asked = breaker
                        .ask(|| settings, || next, now, &mut changed)
                        .map(|(_, admitted)| admitted);
                    let expected = model.ask(&settings, next, now);
                    prop_assert_eq!(asked.map(|_| ()), expected.map(|_| ()));
                    if let (Ok(admitted), Ok((generation, is_probe))) = (asked, expected) {
                        prop_assert_eq!(admitted.is_probe, is_probe);
                        out.push((next, admitted, (now, generation, is_probe)));
                    }
                }
                Step::End(which, end) if !out.is_empty() => {
                    let (id, admitted, call) = out.swap_remove(which.index(out.len()));
                    match end {
                        End::Recorded(outcome) => {
                            let time = (now, 0.5);
                            breaker.record(&settings, (id, admitted), outcome, time, &mut changed);
                        }
                        End::Died => {
                            breaker.lose(&settings, (id, admitted), (now, 0.5), &mut changed);
                        }
                    }
                    model.end(&settings, id, call, end, now);
                }
                Step::Forget(which) if !out.is_empty() => {
                    out.swap_remove(which.index(out.len()));
                }
                Step::End(..) | Step::Forget(_) => {}
                Step::Isolate => {
                    breaker.isolate(now, &mut changed);
                    if model.phase != Phase::Isolated {
                        model.enter(Phase::Isolated);
                    }
                }
                Step::Reset => {
                    breaker.reset(now, &mut changed);
                    model.enter(Phase::Closed);
                }
            }
            let figures = breaker.figures(&settings, now);
            model.probes.retain(|(_, expires)| now < *expires);
            prop_assert_eq!(figures.phase, model.phase);
            prop_assert_eq!(figures.opened, model.opened);
            prop_assert_eq!(figures.probes as usize, model.probes.len());
            prop_assert!(figures.probes <= probes);
            let counts = (figures.calls, figures.failures, figures.slow);
            prop_assert_eq!(counts, model.window(&settings, now));
            if let Some(last) = changed.last() {
                prop_assert_eq!(last.to, model.phase);
            }
        }
    }
}

/// Asks and records `outcome` at once.
fn call(breaker: &mut Breaker, settings: &Settings, now: u64, outcome: Outcome) -> Transitions {
    let mut changed = Vec::new();
    let id = next_id();
    let admitted = breaker
        .ask(|| *settings, || id, now, &mut changed)
        .expect("it is admitted");
    breaker.record(settings, admitted, outcome, (now, 0.5), &mut changed);
    changed
}

#[test]
fn open_time_doubles_up_to_its_maximum_and_begins_anew_after_a_close() {
    let settings = Settings {
        probes: 1,
        ..settings()
    };
    let (mut breaker, mut now) = (Breaker::default(), MS);
    for _ in 0..4 {
        call(&mut breaker, &settings, now, Outcome::Error);
    }
    let mut times = Vec::new();
    for _ in 0..5 {
        let open = breaker
            .figures(&settings, now)
            .retry_after
            .expect("it is open");
        times.push(open / MS);
        now += open;
        call(&mut breaker, &settings, now, Outcome::Error);
    }
    assert_eq!(times, [1_000, 2_000, 4_000, 5_000, 5_000]);
    now += 5_000 * MS;
    call(&mut breaker, &settings, now, Outcome::Ok);
    assert_eq!(breaker.phase(), Phase::Closed);
    for _ in 0..4 {
        call(&mut breaker, &settings, now, Outcome::Error);
    }
    let figures = breaker.figures(&settings, now);
    assert_eq!(figures.retry_after, Some(1_000 * MS));
    assert_eq!(figures.opened, 7);
}

#[test]
fn jitter_is_both_ways_and_below_the_maximum() {
    let settings = Settings {
        jitter: 0.1,
        ..settings()
    };
    let open_for = |random, open| {
        let settings = Settings { open, ..settings };
        let (mut breaker, mut changed) = (Breaker::default(), Vec::new());
        breaker.open(&settings, 0, random, &mut changed);
        changed[0].open / MS
    };
    assert_eq!(open_for(0.0, 1_000 * MS), 900);
    assert_eq!(open_for(0.5, 1_000 * MS), 1_000);
    assert!((1_099..=1_100).contains(&open_for(0.999_999, 1_000 * MS)));
    assert_eq!(open_for(0.999_999, 5_000 * MS), 5_000);
}

#[test]
fn a_half_open_breaker_cannot_stick() {
    let settings = settings();
    let (mut breaker, mut changed, mut now) = (Breaker::default(), Vec::new(), MS);
    for _ in 0..4 {
        call(&mut breaker, &settings, now, Outcome::Error);
    }
    now += 1_000 * MS;
    for id in [1, 2] {
        assert!(breaker.ask(|| settings, || id, now, &mut changed).is_ok());
    }
    assert_eq!(
        breaker.ask(|| settings, || 3, now, &mut changed),
        Err(Refusal::Probing)
    );
    // Both are forgotten.
    now += settings.probe_timeout;
    for _ in 0..2 {
        call(&mut breaker, &settings, now, Outcome::Ok);
    }
    assert_eq!(breaker.phase(), Phase::Closed);
}

#[test]
fn another_count_window_keeps_its_newest_calls() {
    let settings = settings();
    let (mut breaker, mut changed) = (Breaker::default(), Vec::new());
    for outcome in [
        Outcome::Error,
        Outcome::Ok,
        Outcome::Ok,
        Outcome::Ok,
        Outcome::Error,
    ] {
        changed.extend(call(&mut breaker, &settings, MS, outcome));
    }
    let with = |breaker: &mut Breaker, size| {
        let settings = Settings {
            span: Span::Count(size),
            ..settings
        };
        let figures = breaker.figures(&settings, MS);
        (figures.calls, figures.failures)
    };
    assert_eq!(with(&mut breaker, 20), (5, 2));
    assert_eq!(with(&mut breaker, 3), (3, 1));
    assert_eq!(with(&mut breaker, 100), (3, 1));
    assert!(changed.is_empty());
}

#[test]
fn a_breaker_of_a_key_is_small() {
    for span in [Span::Count(100), Span::Time(10_000 * MS)] {
        let settings = Settings { span, ..settings() };
        let breakers: Breakers<NoOpaque> =
            Breakers::new(Seed::fixed(1), 1_000_000).expect("there is memory");
        let before = breakers.keyed.memory();
        for number in 0..100_000 {
            let (key, mut changed) = (Key::word(1, number), Vec::new());
            let asked = breakers.ask(
                || settings,
                1,
                Some(&key),
                true,
                || MS,
                || true,
                &mut changed,
            );
            let id = asked.expect("it lives").expect("it is closed");
            let recorded = breakers.record(
                &settings,
                (1, id),
                Outcome::Error,
                (|| MS, 0.5),
                &mut changed,
            );
            assert!(recorded.is_some());
        }
        let each = (breakers.keyed.memory() + breakers.keyed.heap() - before) / 100_000;
        assert!(each < 300, "{each} bytes a key for {span:?}");
    }
}

#[test]
fn a_dead_process_has_no_call_and_no_probe() {
    let breakers = Breakers::<NoOpaque>::new(Seed::random(), 10).expect("memory");
    let mut changed = Vec::new();
    let ask = |watch: bool, now: u64, changed: &mut Transitions| {
        breakers.ask(settings, 1, None, true, || now, || watch, changed)
    };
    let out = || breakers.change(None, true, || MS, |breaker| breaker.out);
    assert_eq!(ask(false, MS, &mut changed), Err(Undecided::Dead));
    assert_eq!(out(), Ok(0));
    let opened = breakers.change(
        None,
        true,
        || MS,
        |breaker| {
            breaker.open(&settings(), MS, 0.5, &mut Vec::new());
        },
    );
    assert_eq!(opened, Ok(()));
    assert_eq!(ask(false, 2_000 * MS, &mut changed), Err(Undecided::Dead));
    let figures = |breaker: &mut Breaker| breaker.figures(&settings(), 2_000 * MS);
    let figures = breakers
        .change(None, true, || MS, figures)
        .expect("the bare name's");
    assert_eq!((figures.phase, figures.probes), (Phase::HalfOpen, 0));
}

#[test]
fn a_process_that_never_records_has_a_bounded_number_of_calls_out() {
    let breakers = Breakers::<NoOpaque>::new(Seed::random(), 10).expect("memory");
    for _ in 0..3 * CALLS_MAX {
        let asked = breakers.ask(settings, 1, None, true, || MS, || true, &mut Vec::new());
        assert!(asked.expect("it lives").is_ok());
    }
    let out = breakers.change(None, true, || MS, |breaker| breaker.out);
    // A bucket may have been empty.
    let most = CALLS_MAX as u32 + CALLS_MAX as u32 / 100;
    assert!(out.expect("the bare name's") <= most);
    assert_eq!(
        breakers.mark_dead(1).0.count(),
        out.expect("the same") as usize
    );
}
