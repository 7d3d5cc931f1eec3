//! A message costs no allocation on either side once the buffers have grown.
// Every function here is part of a test.
#![allow(clippy::unwrap_used)]
// The allocator counts and forwards every call.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{
    Deadline, Endpoint, Options, Pull, PullEvent, Push, Reply, ReplyEvent, Request, Ticket, Transport,
};
use ekuiper_transport_uds::UdsTransport;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every method calls the system allocator's with its own arguments;
// counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's guarantees are the ones required here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the memory came from the system's `alloc` or
        // `realloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn soon() -> Deadline {
    Some(Instant::now() + Duration::from_secs(60))
}

/// Returns the number of allocations of the second of two runs of `one` and
/// `other`, each in its own thread.
fn in_steady_state(one: impl Fn() + Sync + Send, other: impl Fn() + Sync + Send) -> usize {
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let (barrier, other) = (&barrier, &other);
        scope.spawn(move || {
            other();
            barrier.wait();
            barrier.wait();
            other();
            barrier.wait();
        });
        one();
        barrier.wait();
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        barrier.wait();
        one();
        barrier.wait();
        ALLOCATIONS.load(Ordering::SeqCst) - before
    })
}

fn pair(address: &Address) -> (Box<dyn Push>, Box<dyn Pull>) {
    let (transport, options) = (UdsTransport::new(), Options::default());
    let pull = transport.pull(&Endpoint::Listen(address.clone()), &options).unwrap();
    let push = transport.push(&Endpoint::Dial(address.clone()), &options).unwrap();
    push.connect(soon()).unwrap();
    assert!(matches!(pull.receive(&mut Vec::new(), soon()).unwrap(), PullEvent::Connected(_)));
    (push, pull)
}

fn receive_all(pull: &dyn Pull, buffer: &mut Vec<u8>, count: usize, length: usize) {
    for _ in 0..count {
        assert!(matches!(pull.receive(buffer, soon()).unwrap(), PullEvent::Message(_)));
        assert_eq!(buffer.len(), length);
    }
}

fn one_way(address: &Address, length: usize, count: usize, send: impl Fn(&dyn Push, &[u8]) + Sync + Send) -> usize {
    let (push, pull) = pair(address);
    let body = vec![7; length];
    let buffer = std::sync::Mutex::new(Vec::new());
    in_steady_state(
        || (0..count).for_each(|_| send(&*push, &body)),
        || receive_all(&*pull, &mut buffer.lock().unwrap(), count, length),
    )
}

fn asked(reply: &dyn Reply, buffer: &mut Vec<u8>) -> Ticket {
    loop {
        if let ReplyEvent::Request(ticket) = reply.receive(buffer, soon()).unwrap() {
            return ticket;
        }
    }
}

fn there_and_back(address: &Address, length: usize, count: usize) -> usize {
    let (transport, options) = (UdsTransport::new(), Options::default());
    let reply: Box<dyn Reply> = transport.reply(address, &options).unwrap();
    let request: Box<dyn Request> = transport.request(address, &options).unwrap();
    let connection = request.connect(soon()).unwrap();
    let (body, buffers) = (vec![7; length], [(); 2].map(|()| std::sync::Mutex::new(Vec::new())));
    in_steady_state(
        || {
            let mut buffer = buffers[0].lock().unwrap();
            for _ in 0..count {
                request.send(connection, &body, soon()).unwrap();
                request.receive(&mut buffer, soon()).unwrap();
                assert_eq!(buffer.len(), length);
            }
        },
        || {
            let mut buffer = buffers[1].lock().unwrap();
            for _ in 0..count {
                let ticket = asked(&*reply, &mut buffer);
                reply.send(&ticket, &buffer, soon()).unwrap();
            }
        },
    )
}

#[test]
fn messages_cost_no_allocation() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| Address::new(folder.path().join(name)).unwrap();
    let send: fn(&dyn Push, &[u8]) = |push, body| push.send(body, soon()).unwrap();
    let post: fn(&dyn Push, &[u8]) = |push, body| push.post(body, soon()).unwrap();
    assert_eq!(one_way(&at("sent"), 128, 50_000, send), 0, "sent");
    assert_eq!(one_way(&at("posted"), 128, 200_000, post), 0, "posted");
    assert_eq!(one_way(&at("long"), 1 << 20, 50, send), 0, "long ones");
    assert_eq!(there_and_back(&at("call"), 128, 20_000), 0, "requests and replies");
    assert_eq!(there_and_back(&at("longer"), 20_000, 2000), 0, "longer requests and replies");
}
