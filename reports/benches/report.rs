//! How long the page of a large sweep takes: 300 cells, 5 rounds, 30 samples each, alone and over the nights of a year. The budget
//! is one second each.

use criterion::{Criterion, criterion_group, criterion_main};
use stepwatch_reports::{View, example, html};

fn report(criterion: &mut Criterion) {
    let inputs = example::sized(300, 5, 30);
    let history = example::nights(&inputs, 365);
    let (run, summary, conclusion) = inputs;
    criterion.bench_function("html of 300 cells", |bencher| {
        bencher.iter(|| html::render(&View::new(&run, &summary, &conclusion)));
    });
    criterion.bench_function("html of 300 cells over 365 nights", |bencher| {
        bencher
            .iter(|| html::render(&View::new(&run, &summary, &conclusion).with_history(&history, &run, &conclusion)));
    });
}

criterion_group!(benches, report);
criterion_main!(benches);
