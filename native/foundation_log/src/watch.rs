//! Watchers: each is called once, at the next event.

use std::collections::HashMap;

/// Tells of an event.
pub type Wake = Box<dyn FnOnce() + Send>;

/// Watchers by stream (`None` for the whole log), and by the number of the subscription.
#[derive(Default)]
pub struct Watchers {
    by_stream: HashMap<Option<Box<[u8]>>, HashMap<u64, Wake>>,
}

impl Watchers {
    /// Adds a watcher, in place of an earlier one of the same number.
    pub fn add(&mut self, stream: Option<&[u8]>, id: u64, wake: Wake) {
        let watchers = self.by_stream.entry(stream.map(Into::into));
        watchers.or_default().insert(id, wake);
    }

    /// Removes a watcher, and says whether it was there.
    pub fn remove(&mut self, stream: Option<&[u8]>, id: u64) -> bool {
        let stream = stream.map(Into::into);
        let Some(watchers) = self.by_stream.get_mut(&stream) else {
            return false;
        };
        let removed = watchers.remove(&id).is_some();
        if watchers.is_empty() {
            self.by_stream.remove(&stream);
        }
        removed
    }

    /// Takes those of the streams, and those of the whole log.
    pub fn take<'s>(&mut self, streams: impl Iterator<Item = &'s [u8]>) -> Vec<Wake> {
        if self.by_stream.is_empty() {
            return Vec::new();
        }
        let streams = streams.map(|stream| Some(stream.into()));
        let taken = streams
            .chain([None])
            .filter_map(|stream| self.by_stream.remove(&stream));
        taken.flat_map(HashMap::into_values).collect()
    }

    /// Takes all.
    pub fn take_all(&mut self) -> Vec<Wake> {
        let all = std::mem::take(&mut self.by_stream);
        all.into_values().flat_map(HashMap::into_values).collect()
    }
}
