//! The kernel refuses `membarrier(2)` after the start, as a filter of system calls does that is
//! installed later. The test needs a process of its own, because such a filter stays.
#![cfg(all(target_os = "linux", not(loom)))]

use std::time::{Duration, Instant};

use foundation_core::key::{Key, NoOpaque, Seed};
use foundation_core::registry::{Liveness, Unique};
use foundation_core::table::{Object, Value, reclaim};

struct Everybody;

impl Liveness for Everybody {
    fn is_alive(&self, _owner: u64) -> bool {
        true
    }

    fn watch(&self, _owner: u64) -> bool {
        true
    }
}

#[derive(Debug)]
struct Nothing(#[expect(dead_code, reason = "an object is as large as it is here")] u64);

impl Object for Nothing {
    fn size(&self) -> usize {
        0
    }
}

/// Has the kernel answer EPERM to membarrier(2) of this thread and of those that it starts.
fn refuse_membarrier() -> std::io::Result<()> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The number of the system call is the first word of what a filter is given.
    let mut filter = [
        step(LOAD_WORD, 0, 0, 0),
        step(IF_EQUAL, 0, 1, libc::SYS_membarrier as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which lives until after the calls.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    };
    if set {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[test]
fn entries_are_removed_and_freed_when_the_kernel_refuses_the_barrier_after_the_start() {
    let registry: Unique<NoOpaque, Nothing> =
        Unique::new(Seed::random(), usize::MAX).expect("there is memory");
    let turn = |count: u64| {
        for number in 0..count {
            let key = Key::<()>::word(0, number);
            let value = Value::Object(Box::new(Nothing(number)));
            assert_eq!(registry.register(3, &key, value, &Everybody), Ok(()));
            assert!(registry.unregister(3, &key));
        }
    };

    turn(1_000);
    reclaim::flush();
    assert_eq!(reclaim::outstanding(), 0);

    refuse_membarrier().expect("a thread may refuse itself system calls");
    turn(1_000);
    assert_eq!(registry.figures().entries, 0);

    // Retired objects are not lost. They wait for readers that have not noticed yet.
    let deadline = Instant::now() + Duration::from_secs(60);
    while reclaim::outstanding() > 0 && Instant::now() < deadline {
        reclaim::flush();
        std::thread::yield_now();
    }
    assert_eq!(reclaim::outstanding(), 0);
}
