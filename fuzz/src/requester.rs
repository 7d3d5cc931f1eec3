//! The requester's ids under a script of sends, replies, repeats.

use std::time::{Duration, Instant};

use ekuiper_core::sp::Requester;

/// A reply is accepted exactly when it carries the id of the request that is
/// out, once, and nothing of its body is changed.
///
/// The script: four bytes of seed, one that says after how many milliseconds
/// a request is repeated (0: never), then one byte per step.
pub fn requester(data: &[u8]) {
    let Some((seed, [retry, steps @ ..])) = data.split_first_chunk::<4>() else { return };
    let seed = u32::from_be_bytes(*seed);
    let retry = (*retry > 0).then(|| Duration::from_millis((*retry).into()));
    let mut requester = Requester::new(seed, retry);
    let mut now = Instant::now();
    let mut sent: Vec<u32> = Vec::new();
    let mut out: Option<u32> = None;
    for (place, step) in steps.iter().enumerate() {
        let (kind, detail) = (step >> 5, step & 0x1f);
        now += Duration::from_millis(detail.into());
        match kind {
            0 | 1 => {
                let id = u32::from_be_bytes(requester.begin(now));
                assert!(id >> 31 == 1 && !sent.contains(&id), "{id:x}");
                assert_eq!(id & !(1 << 31), seed.wrapping_add(sent.len() as u32 + 1) & !(1 << 31), "they count up");
                sent.push(id);
                out = Some(id);
                assert_eq!(requester.resend_at(), retry.map(|after| now + after));
            }
            2 => {
                requester.cancel();
                out = None;
            }
            3 => {
                let again = requester.resend(now).map(u32::from_be_bytes);
                assert_eq!(again, out.filter(|_| retry.is_some()), "the same id, and only while it is out");
            }
            // A message that is too short, or whatever comes next in the script.
            4 => accept(&mut requester, &mut out, &steps[place..(place + usize::from(detail)).min(steps.len())]),
            // A reply to the latest, an earlier, or a coming request.
            _ => {
                let latest = sent.last().copied().unwrap_or(seed);
                let id = match kind {
                    5 => latest,
                    6 => sent.iter().rev().nth(detail.into()).copied().unwrap_or(latest),
                    _ => latest.wrapping_add(detail.into()),
                };
                accept(&mut requester, &mut out, &[&id.to_be_bytes(), &steps[place..]].concat());
            }
        }
        assert_eq!(requester.is_waiting(), out.is_some());
    }
}

fn accept(requester: &mut Requester, out: &mut Option<u32>, message: &[u8]) {
    let expected =
        message.split_first_chunk::<4>().filter(|(id, _)| *out == Some(u32::from_be_bytes(**id))).map(|(_, body)| body);
    assert_eq!(requester.accept(message), expected);
    if expected.is_some() {
        *out = None;
    }
}
