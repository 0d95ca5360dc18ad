use super::*;
use crate::table::Members;

type Subject = super::super::Duplicate<NoOpaque, NoObject>;

const ALL: usize = usize::MAX;

fn duplicate(limit: usize) -> Subject {
    Duplicate::new(Seed::fixed(1), limit).expect("there is memory")
}

fn entries(registry: &Subject, key: u64) -> Vec<(u64, u64)> {
    let guard = pin();
    let mut entries = Vec::new();
    if let Some(bag) = registry.get(&int(key), &guard) {
        bag.walk(0, &guard, |member| {
            entries.push((member.owner, number(member.value)));
            true
        });
    }
    entries
}

fn own(registry: &Subject, owner: u64, key: u64) -> Vec<(u64, u64)> {
    let mut entries = Vec::new();
    registry.entries(owner, &int(key), &pin(), |member| {
        entries.push((member.number, number(member.value)));
    });
    entries
}

fn die(registry: &Subject, liveness: &FakeLiveness, owner: u64) {
    liveness.kill(owner);
    let mut pending = registry.mark_dead(owner);
    while !registry.remove_dead(&mut pending, 100) {}
}

#[test]
fn a_keys_entries_keep_their_order() {
    let (registry, liveness) = (duplicate(usize::MAX), FakeLiveness::default());
    for value in 0..100 {
        let owner = 1 + value % 3;
        assert_eq!(
            registry.register(owner, &int(1), word(value), &liveness),
            Ok(())
        );
    }
    let expected: Vec<_> = (0..100).map(|value| (1 + value % 3, value)).collect();
    assert_eq!(entries(&registry, 1), expected);
    assert_eq!(liveness.watched(), 3);
    assert_eq!(registry.unregister(2, &int(1), ALL), Some(33));
    let left: Vec<_> = expected
        .into_iter()
        .filter(|(owner, _)| *owner != 2)
        .collect();
    assert_eq!(entries(&registry, 1), left);
    assert_eq!((registry.len(), registry.figures().keys), (67, 1));
}

#[test]
fn an_owner_removes_one_of_its_many_entries() {
    let (registry, liveness) = (duplicate(usize::MAX), FakeLiveness::default());
    for value in 0..5 {
        assert_eq!(
            registry.register(1, &int(1), word(value), &liveness),
            Ok(())
        );
        assert_eq!(
            registry.register(2, &int(1), word(value), &liveness),
            Ok(())
        );
    }
    let numbers: Vec<u64> = own(&registry, 1, 1)
        .iter()
        .map(|(number, _)| *number)
        .collect();
    // A number of another owner, an unused number, and one number twice.
    let others = own(&registry, 2, 1)[0].0;
    assert_eq!(
        registry.remove(1, &int(1), &[numbers[3], others, 999, numbers[3]]),
        1
    );
    let values = |owner| own(&registry, owner, 1).into_iter().map(|(_, value)| value);
    assert!(values(1).eq([0, 1, 2, 4]));
    assert!(values(2).eq(0..5));
    assert_eq!(registry.remove(1, &int(1), &numbers), 4);
    assert_eq!((registry.held_by(1), registry.held_by(2)), (0, 1));
    assert_eq!(registry.unregister(1, &int(1), ALL), Some(0));
    assert_eq!(registry.unregister(2, &int(1), ALL), Some(5));
    assert!(registry.is_empty());
    assert_eq!(registry.figures().keys, 0);
}

#[test]
fn keys_are_visited_with_the_count_of_their_entries() {
    let (registry, liveness) = (duplicate(usize::MAX), FakeLiveness::default());
    for key in 0..3 {
        for _ in 0..=key {
            assert_eq!(registry.register(1, &int(key), word(0), &liveness), Ok(()));
        }
    }
    let mut counts = Vec::new();
    registry.keys(1, &pin(), |_, count| counts.push(count));
    counts.sort_unstable();
    // First entries and later ones.
    assert_eq!(counts, [1, 1, 1, 1, 2]);
    assert_eq!(registry.held_by(1), 5);
}

#[test]
fn a_death_takes_an_owners_entries_in_pieces_and_no_others() {
    let (registry, liveness) = (duplicate(usize::MAX), FakeLiveness::default());
    for value in 0..1_000 {
        // A hundred entries under each of ten keys, between entries of other owners.
        assert_eq!(
            registry.register(1, &int(value % 10), word(value), &liveness),
            Ok(())
        );
        assert_eq!(
            registry.register(2 + value % 3, &int(value % 20), word(value), &liveness),
            Ok(())
        );
    }
    liveness.kill(1);
    let mut pending = registry.mark_dead(1);
    let mut pieces = 1;
    let mut before = registry.len();
    while !registry.remove_dead(&mut pending, 33) {
        assert!(before - registry.len() <= 33);
        before = registry.len();
        pieces += 1;
    }
    assert!((31..=42).contains(&pieces), "{pieces} pieces");
    assert_eq!((registry.len(), registry.take_cleaned()), (1_000, 1_000));
    for key in 0..20 {
        let left = entries(&registry, key);
        assert_eq!(left.len(), 50);
        assert!(left.iter().all(|(owner, _)| *owner != 1));
    }
}

#[test]
fn a_full_registry_refuses_and_counts_it() {
    let (registry, liveness) = (duplicate(3), FakeLiveness::default());
    for _ in 0..3 {
        assert_eq!(registry.register(1, &int(1), word(0), &liveness), Ok(()));
    }
    assert_eq!(
        registry.register(1, &int(1), word(0), &liveness),
        Err(Refused::Full)
    );
    assert_eq!(registry.figures().drops, 1);
    assert_eq!(registry.unregister(1, &int(1), ALL), Some(3));
    assert_eq!(registry.register(1, &int(1), word(0), &liveness), Ok(()));
}

#[test]
fn a_key_of_many_owners_and_an_owner_of_many_keys_leave_no_memory() {
    let (registry, liveness) = (duplicate(usize::MAX), FakeLiveness::default());
    let empty = registry.figures();
    const MANY: u64 = 20_000;
    for number in 1..=MANY {
        assert_eq!(
            registry.register(number, &int(0), word(0), &liveness),
            Ok(())
        );
        assert_eq!(
            registry.register(MANY + 1, &int(number), word(0), &liveness),
            Ok(())
        );
    }
    let full = registry.figures();
    assert_eq!(
        (full.entries, full.keys, full.owners),
        (40_000, 20_001, 20_001)
    );
    for number in 1..=MANY {
        die(&registry, &liveness, number);
    }
    assert_eq!(entries(&registry, 0), []);
    for number in 1..=MANY / 2 {
        assert_eq!(registry.unregister(MANY + 1, &int(number), ALL), Some(1));
    }
    die(&registry, &liveness, MANY + 1);
    let left = registry.figures();
    assert_eq!((left.entries, left.keys, left.owners), (0, 0, 0));
    assert_eq!(registry.take_cleaned(), MANY + MANY / 2);
    assert!(
        left.memory <= 2 * empty.memory,
        "{} of {}",
        left.memory,
        empty.memory
    );
}

/// An object that counts its drops.
#[derive(Debug)]
struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Object for Counted {
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

#[test]
fn a_value_that_moves_into_a_bag_is_read_all_the_while_and_freed_once() {
    let registry = Duplicate::<NoOpaque, Counted>::new(Seed::fixed(1), ALL).expect("memory");
    let (liveness, freed) = (FakeLiveness::default(), Arc::new(AtomicU64::new(0)));
    let add = |owner| {
        let value = Value::Object(Box::new(Counted(freed.clone())));
        registry.register(owner, &int(1), value, &liveness)
    };
    let empty = registry.figures().memory;
    assert_eq!(add(1), Ok(()));
    {
        let guard = pin();
        let single = registry.get(&int(1), &guard).expect("it is there");
        assert_eq!(add(2), Ok(()));
        assert_eq!(registry.unregister(1, &int(1), ALL), Some(1));
        let owners = |members: Members<'_, Counted>| {
            let mut owners = Vec::new();
            members.walk(0, &guard, |member| {
                assert!(matches!(member.value, ValueView::Object(_)));
                owners.push(member.owner);
                true
            });
            owners
        };
        let bag = registry.get(&int(1), &guard).expect("it is there");
        assert_eq!((owners(single), owners(bag)), (vec![1], vec![2]));
        assert_eq!(freed.load(Ordering::SeqCst), 0);
    }
    for owner in [1, 2] {
        liveness.kill(owner);
        let mut pending = registry.mark_dead(owner);
        assert!(registry.remove_dead(&mut pending, 10));
    }
    assert_eq!(registry.figures().memory, empty);
    while freed.load(Ordering::SeqCst) < 2 {
        crate::table::reclaim::flush();
        std::thread::yield_now();
    }
    drop(registry);
    assert_eq!(freed.load(Ordering::SeqCst), 2);
}

#[test]
fn more_entries_than_the_limit_stay() {
    let (registry, liveness) = (duplicate(usize::MAX), FakeLiveness::default());
    for value in 0..3 {
        assert_eq!(
            registry.register(1, &int(1), word(value), &liveness),
            Ok(())
        );
    }
    assert_eq!(registry.unregister(1, &int(1), 2), None);
    assert_eq!((registry.len(), registry.count_of(1, &int(1))), (3, 3));
    assert_eq!(registry.unregister(1, &int(1), 3), Some(3));
}
