use super::*;

type Name = Option<&'static str>;

impl Carried for Name {
    fn clear(&mut self) {
        *self = None;
    }
}

fn spans() -> Spans<Name> {
    Spans::new(100, usize::MAX)
}

fn context() -> Context {
    Context {
        trace: 7,
        id: 8,
        flags: 0,
        state: Some(Arc::from(*b"a=1")),
    }
}

fn start(spans: &Spans<Name>, name: &'static str) -> Started {
    start_in(spans, 1, name)
}

fn start_in(spans: &Spans<Name>, process: u64, name: &'static str) -> Started {
    spans.start(process, 10, || true, |body| *body = Some(name))
}

fn finish(spans: &Spans<Name>, process: u64, id: Option<u64>) -> Option<Name> {
    let read = |frame: &mut Frame<Name>| Ok::<_, NotReady>(frame.body);
    let finished = spans.finish(process, id, read);
    finished.unwrap_or_else(|NotReady| panic!("all are ready"))
}

fn leave(spans: &Spans<Name>, mark: u64, most: usize) -> (Vec<Frame<Name>>, bool) {
    let left = spans.leave(1, mark, most, |_| true);
    left.unwrap_or_else(|NotReady| panic!("all are ready"))
}

type Told = (u64, Name, u64);

fn look(spans: &Spans<Name>, most: usize) -> (Vec<Told>, bool) {
    let read = |frame: &Frame<_>, lasted| (frame.id, frame.body, lasted);
    let told = spans.abandoned(most, |_| true, read);
    told.unwrap_or_else(|NotReady| panic!("all are ready"))
}

fn take(spans: &Spans<Name>) -> Vec<Told> {
    let (told, _all) = look(spans, 2);
    for (id, ..) in &told {
        assert!(spans.forget(*id).is_some() && spans.forget(*id).is_none());
    }
    told
}

fn names(frames: &[Frame<Name>]) -> Vec<&'static str> {
    frames.iter().filter_map(|frame| frame.body).collect()
}

#[test]
fn spans_nest_in_their_process() {
    let spans = spans();
    let outer = start(&spans, "outer");
    let inner = start(&spans, "inner");
    let other = start_in(&spans, 2, "other");
    assert_eq!((outer.parent, inner.parent, other.parent), (0, outer.id, 0));
    assert_eq!(inner.trace, outer.trace);
    assert_ne!(other.trace, outer.trace);
    assert_eq!(finish(&spans, 1, None), Some(Some("inner")));
    assert_eq!(finish(&spans, 1, None), Some(Some("outer")));
    assert!(finish(&spans, 1, None).is_none());
}

#[test]
fn a_span_ends_by_its_id_in_its_own_process_only() {
    let spans = spans();
    let outer = start(&spans, "outer");
    start(&spans, "inner");
    assert!(finish(&spans, 2, Some(outer.id)).is_none());
    assert!(finish(&spans, 1, Some(outer.id)).is_some());
    assert!(finish(&spans, 1, Some(outer.id)).is_none());
    assert_eq!(spans.innermost(1, |frame| frame.body), Some(Some("inner")));
}

#[test]
fn a_context_is_a_parent_and_no_span() {
    let spans = spans();
    start(&spans, "own");
    let mark = spans.enter(1, context(), 1, || true);
    assert!(finish(&spans, 1, None).is_none());
    assert!(finish(&spans, 1, Some(8)).is_none());
    let inner = start(&spans, "inner");
    assert_eq!((inner.parent, inner.trace), (8, 7));
    let state = |frame: &mut Frame<Name>| frame.state.clone();
    let innermost = || spans.innermost(1, state).flatten();
    assert_eq!(innermost().as_deref(), Some(&b"a=1"[..]));
    start(&spans, "left");
    let mark = mark.unwrap_or(0);
    let (left, all) = leave(&spans, mark, 1);
    assert_eq!((names(&left), all), (vec!["left"], false));
    let (left, all) = leave(&spans, mark, 9);
    assert_eq!((names(&left), all), (vec!["inner"], true));
    assert_eq!(innermost(), None);
    assert_eq!(spans.innermost(1, |frame| frame.body), Some(Some("own")));
}

#[test]
fn a_death_abandons_what_is_open_and_is_told_once() {
    let spans = spans();
    start(&spans, "outer");
    start(&spans, "inner");
    start_in(&spans, 2, "second");
    start_in(&spans, 3, "done");
    finish(&spans, 3, None);
    assert!(!spans.died(3, 20));
    assert!(spans.died(1, 30));
    assert!(!spans.died(2, 40));
    assert!(!spans.died(2, 40));
    spans.told();
    let taken: Vec<_> = take(&spans)
        .into_iter()
        .map(|(_id, body, lasted)| (body, lasted))
        .collect();
    assert_eq!(taken, [(Some("inner"), 20), (Some("outer"), 20)]);
    assert_eq!(take(&spans).len(), 1);
    assert_eq!((take(&spans).len(), spans.processes()), (0, 0));
    start(&spans, "again");
    assert!(spans.died(1, 50));
}

#[test]
fn an_abandoned_span_stays_until_it_is_forgotten() {
    let spans = spans();
    for name in ["outer", "middle", "inner"] {
        start(&spans, name);
    }
    assert!(spans.died(1, 30));
    let (first, all) = look(&spans, 2);
    assert_eq!((first.len(), all), (2, false));
    assert_eq!(look(&spans, 2), (first.clone(), false));
    assert!(spans.forget(first[1].0).is_none(), "not the next");
    assert!(spans.forget(first[0].0).is_some());
    let (second, all) = look(&spans, 2);
    assert_eq!(
        (second[0], second[1].1, all),
        (first[1], Some("outer"), true)
    );
    spans.clear();
    assert_eq!(look(&spans, 2), (vec![], true));
}

#[test]
fn a_span_of_a_dead_process_or_past_the_depth_is_not_kept() {
    let spans = Spans::<Name>::new(2, 1_000);
    assert_ne!(spans.start(1, 0, || false, |_| ()).id, 0);
    assert_eq!(spans.processes(), 0);
    for _ in 0..3 {
        spans.start(1, 0, || true, |_| ());
    }
    assert!(finish(&spans, 1, None).is_some() && finish(&spans, 1, None).is_some());
    assert!(finish(&spans, 1, None).is_none());
}

#[test]
fn a_span_that_is_not_ready_stays() {
    let spans = spans();
    let id = start(&spans, "large").id;
    assert!(spans.finish(1, None, |_| Err::<(), _>(NotReady)).is_err());
    assert!(
        spans
            .finish(1, Some(id), |_| Err::<(), _>(NotReady))
            .is_err()
    );
    spans.enter(1, context(), 5, || true);
    start(&spans, "large too");
    assert!(spans.leave(1, 5, 9, |_| false).is_err());
    assert_eq!(
        spans.innermost(1, |frame| frame.body),
        Some(Some("large too"))
    );
    spans.died(1, 9);
    assert!(spans.abandoned(9, |_| false, |_, _| ()).is_err());
    assert_eq!(take(&spans).len(), 2);
    assert_eq!(look(&spans, 9), (vec![], true));
}

#[test]
fn deaths_that_wait_are_kept_in_pieces_and_told_in_their_order() {
    const MANY: u64 = 10_000;
    let spans = spans();
    let ids: Vec<u64> = (0..MANY)
        .map(|process| start_in(&spans, process, "a").id)
        .collect();
    for process in 0..MANY {
        spans.died(process, 20);
    }
    {
        let abandoned = lock(&spans.abandoned);
        let largest = abandoned.queue.0.iter().map(VecDeque::capacity).max();
        assert!(largest <= Some(256), "{largest:?}");
    }
    let mut told = Vec::new();
    while told.len() < ids.len() {
        told.extend(take(&spans).into_iter().map(|(id, ..)| id));
    }
    assert_eq!(told, ids);
    assert!(lock(&spans.abandoned).queue.0.is_empty());
}

#[test]
fn abandoned_spans_that_too_many_wait_before_are_dropped_and_counted() {
    let spans = Spans::new(100, 3);
    for process in 1..=4 {
        start_in(&spans, process, "outer");
        start_in(&spans, process, "inner");
        spans.died(process, 20);
    }
    // The two spans of the first process fit. Two more would be one too many.
    assert_eq!(spans.take_dropped(), 6);
    assert_eq!(spans.take_dropped(), 0);

    let (told, all) = look(&spans, 10);
    assert_eq!((told.len(), all), (2, true));
    start_in(&spans, 5, "later");
    spans.died(5, 20);
    assert_eq!(spans.take_dropped(), 0);
}
