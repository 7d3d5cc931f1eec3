//! How long each step of the hot path takes, alone and undisturbed: `cargo
//! bench -p ekuiper-bench`.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ekuiper_bench::step;

fn steps(criterion: &mut Criterion) {
    for name in step::names() {
        if let Some(mut step) = step::by_name(name) {
            criterion.bench_function(name, |bencher| bencher.iter(|| (step.take)()));
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = steps
}
criterion_main!(benches);
