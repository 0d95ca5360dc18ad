//! Hit ratios of eviction policies on synthetic traces: the figures behind the choice of the cache.
//!
//! ```text
//! cargo run --release -p foundation_core --example eviction
//! ```
//!
//! Each policy is written here in its simplest form, with lists of keys. So the figures do not
//! depend on the implementation of the cache.

#![allow(missing_docs)]

use std::collections::{HashMap, HashSet, VecDeque};

use foundation_core::random::Random;

const KEYS: usize = 1_000_000;
const REQUESTS: usize = 5_000_000;
/// In the polluted trace, a scan of unique keys begins after so many requests.
const SCAN_EVERY: usize = 50_000;
const SCAN_LENGTH: usize = 20_000;

/// Returns whether a request for `key` is a hit, and admits the key when it is not.
trait Policy {
    fn request(&mut self, key: u32) -> bool;
}

/// Keys in the order of their last use. A key's older places in the queue are skipped.
struct Lru {
    size: usize,
    order: VecDeque<(u32, u64)>,
    last: HashMap<u32, u64>,
    time: u64,
}

impl Policy for Lru {
    fn request(&mut self, key: u32) -> bool {
        self.time += 1;
        self.order.push_back((key, self.time));
        let hit = self.last.insert(key, self.time).is_some();
        while self.last.len() > self.size {
            let Some((oldest, time)) = self.order.pop_front() else {
                break;
            };
            if self.last.get(&oldest) == Some(&time) {
                self.last.remove(&oldest);
            }
        }
        while let Some((key, time)) = self.order.front()
            && self.last.get(key) != Some(time)
        {
            self.order.pop_front();
        }
        hit
    }
}

struct Fifo {
    size: usize,
    order: VecDeque<u32>,
    present: HashSet<u32>,
}

impl Policy for Fifo {
    fn request(&mut self, key: u32) -> bool {
        if !self.present.insert(key) {
            return true;
        }
        self.order.push_back(key);
        if self.order.len() > self.size
            && let Some(oldest) = self.order.pop_front()
        {
            self.present.remove(&oldest);
        }
        false
    }
}

/// A list of entries by their order of insertion, with a mark each.
#[derive(Default)]
struct Marks {
    nodes: Vec<Node>,
    free: Vec<usize>,
    newest: Option<usize>,
    oldest: Option<usize>,
}

struct Node {
    key: u32,
    marked: bool,
    newer: Option<usize>,
    older: Option<usize>,
}

impl Marks {
    fn push(&mut self, key: u32) -> usize {
        let node = Node {
            key,
            marked: false,
            newer: None,
            older: self.newest,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.nodes[place] = node;
                place
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        match self.newest {
            Some(newest) => self.nodes[newest].newer = Some(place),
            None => self.oldest = Some(place),
        }
        self.newest = Some(place);
        place
    }

    fn remove(&mut self, place: usize) -> u32 {
        let (newer, older) = (self.nodes[place].newer, self.nodes[place].older);
        match newer {
            Some(newer) => self.nodes[newer].older = older,
            None => self.newest = older,
        }
        match older {
            Some(older) => self.nodes[older].newer = newer,
            None => self.oldest = newer,
        }
        self.free.push(place);
        self.nodes[place].key
    }
}

/// SIEVE (Zhang et al., NSDI 2024): a hand moves from the oldest entry to newer ones, takes the
/// marks away, and evicts the first entry without one.
struct Sieve {
    size: usize,
    marks: Marks,
    places: HashMap<u32, usize>,
    hand: Option<usize>,
}

impl Policy for Sieve {
    fn request(&mut self, key: u32) -> bool {
        if let Some(place) = self.places.get(&key) {
            self.marks.nodes[*place].marked = true;
            return true;
        }
        if self.places.len() >= self.size {
            let mut hand = self.hand.or(self.marks.oldest);
            while let Some(place) = hand
                && std::mem::take(&mut self.marks.nodes[place].marked)
            {
                hand = self.marks.nodes[place].newer.or(self.marks.oldest);
            }
            if let Some(place) = hand {
                self.hand = self.marks.nodes[place].newer;
                self.places.remove(&self.marks.remove(place));
            }
        }
        let place = self.marks.push(key);
        self.places.insert(key, place);
        false
    }
}

/// S3-FIFO (Yang et al., SOSP 2023). New keys enter a small queue, and those that are used there
/// move to the main queue. A ghost queue has the keys that left the small one unused. `most` is the
/// highest count of uses that is kept: 1 is a mark.
struct S3Fifo {
    size: usize,
    most: u8,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    uses: HashMap<u32, u8>,
    ghost: VecDeque<u32>,
    ghosts: HashMap<u32, usize>,
    ghost_size: usize,
    small_size: usize,
}

impl S3Fifo {
    fn new(size: usize, most: u8, ghost_size: usize, small_percent: usize) -> Self {
        S3Fifo {
            size,
            most,
            small: VecDeque::new(),
            main: VecDeque::new(),
            uses: HashMap::new(),
            ghost: VecDeque::new(),
            ghosts: HashMap::new(),
            ghost_size,
            small_size: (size * small_percent / 100).max(1),
        }
    }

    fn evict(&mut self) {
        if self.small.len() >= self.small_size || self.main.is_empty() {
            while let Some(key) = self.small.pop_front() {
                let used = self.uses.get(&key).copied().unwrap_or(0);
                if used >= self.most.min(2) {
                    self.uses.insert(key, 0);
                    self.main.push_back(key);
                } else {
                    self.uses.remove(&key);
                    self.ghost.push_back(key);
                    *self.ghosts.entry(key).or_default() += 1;
                    if self.ghost.len() > self.ghost_size
                        && let Some(old) = self.ghost.pop_front()
                    {
                        self.forget(old);
                    }
                    return;
                }
            }
        }
        while let Some(key) = self.main.pop_front() {
            let used = self.uses.get(&key).copied().unwrap_or(0);
            if used == 0 {
                self.uses.remove(&key);
                return;
            }
            self.uses.insert(key, used - 1);
            self.main.push_back(key);
        }
    }

    fn forget(&mut self, key: u32) {
        if let Some(count) = self.ghosts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.ghosts.remove(&key);
            }
        }
    }
}

impl Policy for S3Fifo {
    fn request(&mut self, key: u32) -> bool {
        if let Some(uses) = self.uses.get_mut(&key) {
            *uses = (*uses + 1).min(self.most);
            return true;
        }
        while self.uses.len() >= self.size {
            self.evict();
        }
        self.uses.insert(key, 0);
        if self.ghosts.contains_key(&key) {
            self.main.push_back(key);
        } else {
            self.small.push_back(key);
        }
        false
    }
}

/// Keys by Zipf's law with exponent 1.0, in a random order of popularity.
struct Zipf {
    cumulated: Vec<f64>,
    random: Random,
}

impl Zipf {
    fn new() -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=KEYS)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        Zipf {
            cumulated,
            random: Random::new(),
        }
    }

    fn next(&mut self) -> u32 {
        let point = self.random.unit() * self.cumulated[KEYS - 1];
        self.cumulated.partition_point(|sum| *sum < point) as u32
    }
}

fn zipf() -> Vec<u32> {
    let mut zipf = Zipf::new();
    (0..REQUESTS).map(|_| zipf.next()).collect()
}

/// The same with scans of keys that come once.
fn polluted() -> Vec<u32> {
    let mut zipf = Zipf::new();
    let mut trace = Vec::with_capacity(REQUESTS);
    let mut unique = KEYS as u32;
    while trace.len() < REQUESTS {
        trace.extend((0..SCAN_EVERY).map(|_| zipf.next()));
        trace.extend((0..SCAN_LENGTH as u32).map(|step| unique + step));
        unique += SCAN_LENGTH as u32;
    }
    trace.truncate(REQUESTS);
    trace
}

/// The most popular keys, which are never evicted.
struct Best(u32);

impl Policy for Best {
    fn request(&mut self, key: u32) -> bool {
        key < self.0
    }
}

fn policies(size: usize) -> Vec<(&'static str, Box<dyn Policy>)> {
    let lru = Lru {
        size,
        order: VecDeque::new(),
        last: HashMap::new(),
        time: 0,
    };
    let fifo = Fifo {
        size,
        order: VecDeque::new(),
        present: HashSet::new(),
    };
    let sieve = Sieve {
        size,
        marks: Marks::default(),
        places: HashMap::new(),
        hand: None,
    };
    vec![
        ("best", Box::new(Best(size as u32))),
        ("fifo", Box::new(fifo)),
        ("lru", Box::new(lru)),
        ("sieve", Box::new(sieve)),
        ("s3fifo", Box::new(S3Fifo::new(size, 3, size * 9 / 10, 10))),
        (
            "s3fifo_mark",
            Box::new(S3Fifo::new(size, 1, size * 9 / 10, 10)),
        ),
    ]
}

fn main() {
    for (name, trace) in [("zipf", zipf()), ("polluted", polluted())] {
        for per_mille in [1, 3, 10, 30, 100] {
            let size = KEYS * per_mille / 1_000;
            for (policy, mut cache) in policies(size) {
                let hits = trace.iter().filter(|key| cache.request(**key)).count();
                let ratio = hits as f64 / trace.len() as f64;
                println!("{name} {per_mille} {policy} {ratio:.4}");
            }
        }
    }
}
